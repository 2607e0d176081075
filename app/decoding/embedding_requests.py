"""Requests in the shape of OpenAI's embeddings, with images in the place of texts: from bytes to image files.

Source: the reference of OpenAI's API, "Create embeddings".
"""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.decoding.base64_text import BadBase64, decode_base64
from app.decoding.content_kind import looks_like_image
from app.decoding.oip_tensors import Strict, Text, parse_oip
from app.errors import BadInference, TooLarge

_INPUT = "an image as a data URL (data:image/jpeg;base64,…), or a list of these"


class EmbeddingRequest(Strict):
    """The JSON of a request; members that are not named here are ignored, as are those of OpenAI that say who asks."""

    input: Annotated[Any, Field(description=_INPUT)] = None
    model: Annotated[Text | None, Field(description="the name of a served model; the default if left out")] = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64 is of the numbers as float32, little-endian")
    ] = "float"
    dimensions: Annotated[Any, Field(description="must be left out: embeddings are not cut")] = None


def read_embedding_request(body: bytes, max_images: int) -> tuple[EmbeddingRequest, list[NDArray[np.uint8]]]:
    """The request in `body` without its input, and the bytes of each image. Raises BadInference, and TooLarge."""
    request = parse_oip(EmbeddingRequest, body)
    if request.dimensions is not None:
        raise BadInference("dimensions must be left out: the embeddings of this network are not cut")
    items = request.input if isinstance(request.input, list) else [request.input]
    if not items or request.input is None:
        raise BadInference(f"input must be {_INPUT}")
    if len(items) > max_images:
        raise TooLarge(f"{len(items)} images are over the limit of {max_images} in one request")
    files = [np.frombuffer(_file(item), np.uint8) for item in items]
    request.input = None
    return request, files


def _file(item: Any) -> bytes:
    """The bytes of one input; some clients put the text into {"image": …}."""
    if isinstance(item, dict) and set(item) == {"image"}:
        item = item["image"]
    try:
        file = decode_base64(item)
    except BadBase64 as err:
        raise BadInference(f"input must be {_INPUT}: {err}") from err
    if not (item[:5].lower() == "data:" or looks_like_image(file)):  # many a text can be read as base64
        raise BadInference(f"input must be {_INPUT}: this is a text, which this network cannot embed")
    return file
