"""The JSON of the routes in the dialects of Hugging Face, KServe's V1 protocol and TorchServe, for OpenAPI too."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.image_requests import BINARY_STRING
from app.api.inspection_schemas import AttentionMaps, Explanation, PictureGeometry
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.schemas import Prediction
from app.decoding.dialect_requests import HuggingFaceParameters, HuggingFaceRequest, V1Parameters, V1Request
from app.decoding.oip_tensors import Strict

TORCHSERVE_FIELDS = ("data", "body")  # of a form, beside those of /classify
TORCHSERVE_ADVICE = "send the image as multipart field 'data' or 'body', or as the body with Content-Type: image/jpeg"
HUGGING_FACE_ADVICE = (
    "send the image as the body with Content-Type: image/jpeg, or as "
    '{"inputs": "base64 of an image file"} with Content-Type: application/json'
)


class LabelScore(BaseModel):
    """A class, as Hugging Face has it."""

    label: str
    score: Annotated[float, Field(description="or the logit, with function_to_apply none")]


class V1Models(BaseModel):
    """The names of the served models."""

    models: list[str]


class V1Model(BaseModel):
    """A model that is ready; one that is not is 503."""

    name: str
    ready: Literal[True] = True


class V1Predictions(BaseModel):
    """The best classes of each instance, the best first, as POST /classify has them."""

    predictions: list[list[Prediction]]


class V1Explanation(BaseModel):
    """What POST /explain says of an instance."""

    explanations: list[Explanation]
    attention: AttentionMaps
    picture: PictureGeometry


class V1Explanations(BaseModel):
    """The explanation of each instance."""

    explanations: list[V1Explanation]


class PingStatus(BaseModel):
    """What TorchServe says while it serves."""

    status: Literal["Healthy"] = "Healthy"


def _json_body(kind: type[Strict], parameters: type[Strict], required: str) -> dict[str, Any]:
    """The schema of `kind` without references, which have no target inside of an operation."""
    schema = kind.model_json_schema()
    schema.pop("$defs", None)
    schema["properties"]["parameters"] = parameters.model_json_schema()
    schema["required"] = [required]
    return schema


_IMAGE_BODIES = {kind: {"schema": BINARY_STRING | {"minLength": 1}} for kind in ("image/*", "application/octet-stream")}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_V1_BODY = _json_body(V1Request, V1Parameters, "instances")
_V1_BODY["properties"]["instances"] |= {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [{"type": "object", "required": ["b64"], "properties": {"b64": _BASE64}}, _BASE64]},
}
_HUGGING_FACE_BODY = _json_body(HuggingFaceRequest, HuggingFaceParameters, "inputs")
_HUGGING_FACE_BODY["properties"]["inputs"] |= _BASE64

HUGGING_FACE_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "an image file, or JSON with one in base64",
        "content": {"application/json": {"schema": _HUGGING_FACE_BODY}, **_IMAGE_BODIES},
    },
}
V1_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _V1_BODY}}},
}
TORCHSERVE_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "description": "an image file: the body itself, or in the field data of a form",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [TORCHSERVE_FIELDS[0]],
                    "properties": {TORCHSERVE_FIELDS[0]: BINARY_STRING | {"minLength": 1}},
                }
            },
            **_IMAGE_BODIES,
        },
    },
}
