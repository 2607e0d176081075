"""The worker's side of decoding JPEGs on the GPU: JPEGs to pixels. `app.engines.gpu_jpeg.jpeg_pool` calls it."""

import numpy as np
from numpy.typing import NDArray

from app.engines.gpu_jpeg.jpeg_decoder import JpegDecoder, open_jpeg_decoder
from app.engines.interface import EngineRefused
from app.processes.channel import Arrays, Values
from model.spec import Preprocessing


class JpegHost:
    """Decodes plain JPEGs of at most `max_pixels`; each size that the network sees has a decoder."""

    def __init__(self, max_pixels: int) -> None:
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

    def decode(self, resize: int, crop: int, *bodies: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        """The indices of the JPEGs in `bodies` that could be decoded; their pixels (count, crop, crop, 3)."""
        decoder = self._decoders[Preprocessing(resize, crop)]
        decoded = decoder.decode([body.tobytes() for body in bodies])
        return [*decoded], [decoder.pixels(len(decoded))]
