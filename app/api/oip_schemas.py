"""The JSON of the Open Inference Protocol's routes: pydantic models, and the OpenAPI description of inference."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.api.openapi import TIMEOUT_PARAMETER
from app.decoding.oip_tensors import (
    BINARY,
    EMBEDDING,
    ENCODINGS,
    LENGTH_HEADER,
    InferenceRequest,
    Strict,
    without_nulls,
)
from bundle.tensors import OUTPUTS


class Live(BaseModel):
    """The answer of GET /v2/health/live."""

    live: bool = True


class Ready(BaseModel):
    """The answer of GET /v2/health/ready."""

    ready: bool = True


class ModelReady(Ready):
    """The answer of GET /v2/models/{name}/ready."""

    name: str


class ServerMetadata(BaseModel):
    """The answer of GET /v2: the server and the protocol extensions that it has."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output of a model; -1 in its shape is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The answer of GET /v2/models/{name}."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class LoadRequest(Strict):
    """The body of POST /v2/repository/models/{name}/load."""

    parameters: Annotated[
        dict[str, Any],
        BeforeValidator(without_nulls),
        Field(default_factory=dict, description="must be empty", json_schema_extra={"maxProperties": 0}),
    ]


class IndexRequest(Strict):
    """The body of POST /v2/repository/index; `ready` limits the answer to ready models."""

    ready: bool = False


class IndexEntry(BaseModel):
    """A model that the repository knows; `reason` says why it is not ready."""

    name: str
    version: str
    state: str
    reason: str


def optional_body(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a JSON body that may be empty."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _without_references(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with each $ref replaced by its definition: inside an OpenAPI operation a $ref has no target."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _without_references(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _without_references(value, definitions) for key, value in schema.items() if key != "$defs"}
    return [_without_references(item, definitions) for item in schema] if isinstance(schema, list) else schema


_REQUEST_SCHEMA = InferenceRequest.model_json_schema()
INFER_REQUEST = {
    "parameters": [
        TIMEOUT_PARAMETER,
        {
            "name": LENGTH_HEADER,
            "in": "header",
            "description": "length of the JSON where binary tensors follow it; 0 for an image file without any JSON",
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "Content-Encoding",
            "in": "header",
            "description": "how the body is compressed; a body that is recognised as JSON or an image is not decoded",
            "schema": {"type": "string", "enum": [*ENCODINGS, "identity"]},
        },
    ],
    "requestBody": {
        "required": True,
        "description": "one input, `image` (UINT8) or `encoded` (BYTES: image files; in JSON as base64 strings)",
        "content": {
            "application/json": {"schema": _without_references(_REQUEST_SCHEMA, _REQUEST_SCHEMA["$defs"])},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_RESPONSE_SCHEMA = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"enum": [*OUTPUTS, EMBEDDING]},
                    "datatype": {"enum": ["FP32", "BYTES"]},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array", "description": "left out where it follows the JSON in binary"},
                    "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
                },
            },
        },
    },
}
INFER_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"schema": _RESPONSE_SCHEMA},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}
