"""Requests in the shape of OpenAI's embeddings, with images in the place of texts: from bytes to image files.

Source: the reference of OpenAI's API, "Create embeddings".
"""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.decoding.base64_text import NOT_BASE64, BadBase64, decode_base64
from app.decoding.content_kind import looks_like_image
from app.decoding.json_requests import parse_json_request
from app.decoding.oip_tensors import Strict, Text
from app.errors import BadInference, TooLarge

_IMAGE = "an image as a data URL (data:image/jpeg;base64,…)"
_INPUT = f"{_IMAGE}, or a list of these"
_JSON = '{"input": "data:image/jpeg;base64,…"}'


class EmbeddingRequest(Strict):
    """The JSON of a request; members that are not named here are ignored, as are those of OpenAI that say who asks."""

    input: Annotated[Any, Field(description=_INPUT)] = None
    model: Annotated[Text | None, Field(description="the name of a served model; the default if left out")] = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64 is of the numbers as float32, little-endian")
    ] = "float"
    dimensions: Annotated[Any, Field(description="must be left out: embeddings are not cut")] = None


def read_embedding_request(body: bytes, max_images: int) -> tuple[EmbeddingRequest, list[NDArray[np.uint8]]]:
    """The request in `body` without its input, and the bytes of each image. Raises BadInference, and TooLarge.

    A message about one member begins with its name.
    """
    request = parse_json_request(EmbeddingRequest, body, _JSON)
    if request.dimensions is not None:
        raise BadInference("dimensions must be left out: the embeddings of this network are not cut")
    if request.input is None:
        raise BadInference(f"input is missing: it must be {_INPUT}")
    if request.input == []:
        raise BadInference(f"input is an empty list: it must be {_INPUT}")
    items = request.input if isinstance(request.input, list) else [request.input]
    if len(items) > max_images:
        raise TooLarge(f"{len(items)} images are over the limit of {max_images} in one request")
    files = [
        np.frombuffer(_file(item, name), np.uint8) for item, name in zip(items, input_names(len(items)), strict=True)
    ]
    request.input = None
    return request, files


def input_names(count: int) -> list[str]:
    """The names of `count` images of a request in messages: "input" for one, else "input[0]", ..."""
    return ["input"] if count == 1 else [f"input[{index}]" for index in range(count)]


def _file(item: Any, name: str) -> bytes:
    """The bytes of the input called `name`; some clients put the text into {"image": …}."""
    if isinstance(item, dict) and set(item) == {"image"}:
        item = item["image"]
    wanted = f"{name} must be {_INPUT if name == 'input' else _IMAGE}"
    is_data_url = isinstance(item, str) and item[:5].lower() == "data:"
    try:
        file = decode_base64(item)
    except BadBase64 as err:
        if err.args[0] != NOT_BASE64 or is_data_url:
            raise BadInference(f"{wanted}: {err}") from err
        file = b""
    if not (is_data_url or looks_like_image(file)):  # many a text can be read as base64
        raise BadInference(f"{name} is a text, and this network embeds images: {wanted}")
    return file
