"""The worker's side of decoding JPEGs on the GPU: JPEGs to pixels. `app.engines.gpu_jpeg.jpeg_pool` calls it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.engines.gpu_jpeg.jpeg_decoder import JpegDecoder, open_jpeg_decoder
from app.engines.interface import EngineRefused
from app.processes.channel import Arrays, Values
from app.processes.shared_memory import SharedMemory
from model.spec import Preprocessing


class JpegHost:
    """Decodes plain JPEGs; each size that the network sees has a decoder.

    Args:
        max_pixels: of a JPEG.
        files: the memory into which pixels are written.
    """

    def __init__(self, max_pixels: int, files: Sequence[int]) -> None:
        (file,) = files
        self._memory = SharedMemory(file=file)
        self._max_pixels = max_pixels
        self._decoders: dict[Preprocessing, JpegDecoder] = {}

    def open(self, resize: int, crop: int) -> tuple[Values, Arrays]:
        """Get ready for these steps: the reason why the GPU does not decode for them, or None."""
        steps = Preprocessing(resize, crop)
        if steps not in self._decoders:
            try:
                self._decoders[steps] = open_jpeg_decoder(steps, self._max_pixels)
            except EngineRefused as err:
                return [str(err)], []
        return [None], []

    def decode(
        self, resize: int, crop: int, offsets: Sequence[int], *bodies: NDArray[np.uint8]
    ) -> tuple[Values, Arrays]:
        """Write the pixels (crop, crop, 3) of each of `bodies` to its offset; the indices of those that are decoded."""
        decoder = self._decoders[Preprocessing(resize, crop)]
        decoded = decoder.decode([body.tobytes() for body in bodies])
        for index, pixels in zip(decoded, decoder.pixels(len(decoded)), strict=True):
            self._memory.array(offsets[index], *pixels.shape)[...] = pixels
        return [*decoded], []
