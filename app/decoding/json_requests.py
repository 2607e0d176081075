"""JSON requests that have images as base64: what all of them say where something else was sent."""

from app.decoding.content_kind import is_form, looks_like_image, mistaken
from app.decoding.oip_tensors import OipObject, parse_oip
from app.errors import BadInference
from model.files.formats import HEAD_BYTES


def parse_json_request(kind: type[OipObject], body: bytes, example: str) -> OipObject:
    """The JSON in `body` as an object of `kind`. Raises BadInference, which shows `example` where JSON is missing."""
    try:
        return parse_oip(kind, body)
    except BadInference as err:
        if (sent := _instead(body)) is None:
            raise
        raise BadInference(f"the request is {sent}, and this route takes JSON: {example}") from err


def _instead(body: bytes) -> str | None:
    """What was sent instead of JSON, if the advice of the Open Inference Protocol's routes does not fit it."""
    if is_form(body[:HEAD_BYTES]):
        return "a multipart form"
    if looks_like_image(body):
        return "an image file"
    kind = None if body.lstrip()[:1] in (b"{", b"[", b'"') else mistaken(body)
    return kind.partition(":")[0] if kind and not kind.startswith("gzip") else None
