"""The worker's side of decoding: turns untrusted bytes into pixels. `app.decoding.pool` calls it."""

import json
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.decoding.dialect_requests import Dialect, read_dialect
from app.decoding.embedding_requests import EmbeddingRequest, read_embedding_request
from app.decoding.image_decoding import decode, decode_and_measure
from app.decoding.oip_tensors import CHARSETS, InferenceRequest, parse_oip, read_inputs
from app.decoding.overlay import draw_overlay
from app.decoding.overlay_bounds import Grid
from app.errors import BadInference
from app.processes.channel import Arrays, Values
from app.processes.shared_memory import SharedMemory
from model.files.formats import FORMATS
from model.spec import Preprocessing

_MAX_DESCRIPTION_BYTES = 500_000  # of an inference request without its data


class Decoder:
    """Decodes one body at a time. It imports and opens all that it may need at its start: a sealed worker cannot later.

    Args:
        max_pixels: as for app.decoding.image_decoding.decode.
        scaled_jpeg: as for app.decoding.image_decoding.decode.
        files: the memory in which bodies and results cross; its size is sealed.
    """

    def __init__(self, max_pixels: int, scaled_jpeg: bool, files: Sequence[int]) -> None:
        (memory,) = files
        self._memory = SharedMemory(file=memory)
        self._max_pixels = max_pixels
        self._scaled_jpeg = scaled_jpeg
        Image.init()
        for kind in FORMATS:
            file = BytesIO()
            Image.new("RGB", (8, 8)).save(file, kind)
            decode(file.getvalue(), Preprocessing(8, 8), max_pixels=64)
        draw_overlay(file.getvalue(), Preprocessing(8, 8), [[[1.0]]], 1.0, max_pixels=64)
        for charset in CHARSETS:
            parse_oip(EmbeddingRequest, "{}".encode(charset))

    def image(self, resize: int, crop: int, body: int, body_bytes: int, result: int) -> tuple[Values, Arrays]:
        """Write the pixels of the image file at `body` to `result`. See app.decoding.image_decoding.decode."""
        pixels = decode(
            self._read(body, body_bytes), Preprocessing(resize, crop), self._max_pixels, scaled_jpeg=self._scaled_jpeg
        )
        self._write(result, [pixels])
        return [], []

    def measured_image(self, resize: int, crop: int, body: int, body_bytes: int, result: int) -> tuple[Values, Arrays]:
        """What `image` does; the width and height of the upright picture. See model.preprocess."""
        pixels, size = decode_and_measure(
            self._read(body, body_bytes), Preprocessing(resize, crop), self._max_pixels, scaled_jpeg=self._scaled_jpeg
        )
        self._write(result, [pixels])
        return [*size], []

    def overlay(
        self, resize: int, crop: int, grids: Sequence[Grid], opacity: float, body: int, body_bytes: int, result: int
    ) -> tuple[Values, Arrays]:
        """Write a PNG of the image file at `body` with `grids` over it to `result`; its size in bytes.

        See app.decoding.overlay.draw_overlay.
        """
        png = draw_overlay(
            self._read(body, body_bytes), Preprocessing(resize, crop), grids, opacity, max_pixels=self._max_pixels
        )
        self._memory.write(result, png)
        return [len(png)], []

    def inference(
        self, json_bytes: int | None, max_images: int, body: int, body_bytes: int, result: int
    ) -> tuple[Values, Arrays]:
        """Write the tensors of the request at `body` to `result`; the request without them, and their shapes.

        See app.decoding.oip_tensors.read_inputs.
        """
        read = read_inputs(self._read(body, body_bytes), json_bytes=json_bytes, max_images=max_images)
        return self._inference(read, result)

    def dialect(
        self, dialect: Dialect, max_images: int, body: int, body_bytes: int, result: int
    ) -> tuple[Values, Arrays]:
        """What `inference` does for a request in `dialect`. See app.decoding.dialect_requests.read_dialect."""
        return self._inference(read_dialect(dialect, self._read(body, body_bytes), max_images), result)

    def embedding_request(self, max_images: int, body: int, body_bytes: int, result: int) -> tuple[Values, Arrays]:
        """Write the image files of the request at `body` to `result`; the request without them, and their lengths.

        See app.decoding.embedding_requests.read_embedding_request.
        """
        request, files = read_embedding_request(self._read(body, body_bytes), max_images)
        self._write(result, files)
        return [request.model_dump(mode="json"), [file.size for file in files]], []

    def _inference(self, read: tuple[InferenceRequest, list[NDArray[np.uint8]]], result: int) -> tuple[Values, Arrays]:
        request, tensors = read
        description = request.model_dump(mode="json")
        if len(json.dumps(description, ensure_ascii=False).encode("utf-8", "replace")) > _MAX_DESCRIPTION_BYTES:
            raise BadInference(
                f"the request's names and parameters take more than {_MAX_DESCRIPTION_BYTES:,} bytes; send fewer"
            )
        self._write(result, tensors)
        return [description, [list(tensor.shape) for tensor in tensors]], []

    def _read(self, offset: int, size: int) -> bytes:
        return self._memory.array(offset, size).tobytes()

    def _write(self, offset: int, arrays: Sequence[NDArray[np.uint8]]) -> None:
        for array in arrays:
            self._memory.array(offset, array.size)[...] = array.reshape(-1)
            offset += array.size
