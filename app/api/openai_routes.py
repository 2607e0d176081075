"""POST /v1/embeddings, in the shape of OpenAI's: clients for text embeddings send images as data URLs.

Source: the reference of OpenAI's API, "Create embeddings".
"""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.api.auth import AccessLevel
from app.api.dependencies import Service, ServiceDep, caller_id, require_access, run_while_connected
from app.api.error_formats import OpenAIError
from app.api.image_requests import IMAGE_REQUEST_ERRORS
from app.api.openapi import TIMEOUT_PARAMETER
from app.api.problems import error_responses
from app.decoding.embedding_requests import EmbeddingRequest, input_names
from app.errors import BadImage, NoInspection, NotAnImage, UnknownCoding
from app.serving.explanation_fields import rounded, with_length_one
from app.serving.served_model import ServedModel
from app.timing import until_deadline

router = APIRouter(prefix="/v1", tags=["Inspection"], redirect_slashes=False)

_DATA_URL = {"type": "string", "examples": ["data:image/png;base64,…"]}
_REQUEST_SCHEMA = EmbeddingRequest.model_json_schema()
_REQUEST_SCHEMA["properties"]["input"] |= {"anyOf": [_DATA_URL, {"type": "array", "items": _DATA_URL, "minItems": 1}]}
_REQUEST_SCHEMA["properties"]["dimensions"] |= {"type": "null"}
_REQUEST_SCHEMA["required"] = ["input"]
_REQUEST = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST_SCHEMA}}},
}


class EmbeddingItem(BaseModel):
    """The embedding of one image, whose length is 1: numbers, or float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: Annotated[int, Field(description="of the image in the input, from 0")]
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Images have no tokens."""

    prompt_tokens: Literal[0] = 0
    total_tokens: Literal[0] = 0


class EmbeddingList(BaseModel):
    """The embeddings of all images, in their order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage = EmbeddingUsage()


@router.post(
    "/embeddings",
    summary="Embed images, in the shape of OpenAI's API",
    openapi_extra=_REQUEST,
    responses=error_responses(
        *IMAGE_REQUEST_ERRORS, NoInspection, NotAnImage, BadImage, UnknownCoding, model=OpenAIError
    ),
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True)],
)
async def embeddings(request: Request, service: ServiceDep) -> EmbeddingList:
    """The embeddings of `POST /embed` with the length 1, both branches in one, for one or several images."""
    deadline = service.deadline(request)
    parsing = service.repository.model()  # the one to use is in the body
    with parsing.in_use(), service.body_limits.open_body(request) as body:
        parsing.check(caller=caller_id(request))
        work = _embedded(request, service, parsing, await body.whole(), deadline)
        asked, name, vectors = await run_while_connected(request, work)
    encode = _in_base64 if asked.encoding_format == "base64" else rounded
    items = [EmbeddingItem(index=index, embedding=encode(vector)) for index, vector in enumerate(vectors)]
    return EmbeddingList(data=items, model=name)


async def _embedded(
    request: Request, service: Service, parsing: ServedModel, body: bytes, deadline: float
) -> tuple[EmbeddingRequest, str, list[NDArray[np.float32]]]:
    """The parsed request without its images, the name of the model, and the embedding of each image."""
    caller = caller_id(request)
    with parsing.room(caller=caller):  # parsing the body costs as much as an image
        async with until_deadline(deadline):
            asked, files = await service.decoders.embedding_request(
                body, max_images=service.settings.max_images, deadline=deadline, caller=caller
            )
    model = service.model(request, asked.model)
    with model.in_use():
        inspection, resolution = model.inspection, model.resolution(None)
        await service.charge(request, len(files))
        answers = await inspection.embed(files, resolution, deadline, caller=caller, names=input_names(len(files)))
    request.state.stages += max(answers, key=lambda answer: answer.stages[-1][1].end).stages
    vectors = [with_length_one(np.concatenate(answer.image.embeddings)) for answer in answers]
    return asked, model.bundle.name, vectors


def _in_base64(vector: NDArray[np.float32]) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
