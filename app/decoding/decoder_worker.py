"""The worker's side of decoding: turns untrusted bytes into pixels. `app.decoding.pool` calls it."""

import json
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from app.decoding.oip_tensors import CHARSETS, Strict, parse_oip, read_inputs
from app.errors import BadInference
from app.processes.channel import Arrays, Values
from model.files.formats import FORMATS
from model.spec import Preprocessing

_MAX_DESCRIPTION_BYTES = 500_000  # of an inference request without its data


class Decoder:
    """Decodes one body at a time. It imports and opens all that it may need at its start: a sealed worker cannot later.

    Args:
        max_pixels: as for app.decoding.image_decoding.decode.
        scaled_jpeg: as for app.decoding.image_decoding.decode.
    """

    def __init__(self, max_pixels: int, scaled_jpeg: bool = False) -> None:
        self._max_pixels = max_pixels
        self._scaled_jpeg = scaled_jpeg
        Image.init()
        for kind in FORMATS:
            file = BytesIO()
            Image.new("RGB", (8, 8)).save(file, kind)
            decode(file.getvalue(), Preprocessing(8, 8), max_pixels=64)
        for charset in CHARSETS:
            parse_oip(Strict, "{}".encode(charset))

    def image(self, resize: int, crop: int, body: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        """See app.decoding.image_decoding.decode."""
        steps = Preprocessing(resize, crop)
        return [], [decode(body.tobytes(), steps, self._max_pixels, scaled_jpeg=self._scaled_jpeg)]

    def inference(self, json_bytes: int | None, max_images: int, body: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        """See app.decoding.oip_tensors.read_inputs."""
        request, tensors = read_inputs(body.tobytes(), json_bytes=json_bytes, max_images=max_images)
        description = request.model_dump(mode="json")
        if len(json.dumps(description, ensure_ascii=False).encode("utf-8", "replace")) > _MAX_DESCRIPTION_BYTES:
            raise BadInference(
                f"the request's names and parameters take more than {_MAX_DESCRIPTION_BYTES:,} bytes; send fewer"
            )
        return [description], tensors
