"""The HTTP interface."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect

from app.body import FIELD, read_image
from app.errors import BadImage, NoImage, NotAnImage, NotReady, TooLarge, UnknownModel
from app.model import Answer, Model
from app.problems import responses
from app.schemas import AnsweredBy, Classification, Models, Options, Prediction, ServedModel, Status, Timing
from app.settings import Settings
from app.state import Serving

T = TypeVar("T")

router = APIRouter()

_BINARY = {"type": "string", "format": "binary"}
_IMAGE = {
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG, WebP, GIF or BMP: a file in a form, or the body itself",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}},
            },
            **{kind: {"schema": _BINARY} for kind in ("image/*", "application/octet-stream")},
        },
    }
}


def serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


def settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


@router.post(
    "/classify",
    openapi_extra=_IMAGE,
    responses=responses(NoImage, UnknownModel, TooLarge, NotAnImage, BadImage, NotReady),
)
async def classify(
    request: Request,
    options: Annotated[Options, Query()],
    serving: Annotated[Serving, Depends(serving)],
    settings: Annotated[Settings, Depends(settings)],
) -> Classification:
    """The best classes for one image."""
    started = time.perf_counter()
    model = serving.model(options.model)
    model.resolution(options.resolution)  # before the body is read
    image = await read_image(request, settings.max_body_bytes)
    answer = await _while_connected(request, model.classify(image, options.top_k, options.resolution))
    return _classification(model, answer, time.perf_counter() - started, request.state.request_id)


@router.get("/models")
async def models(serving: Annotated[Serving, Depends(serving)]) -> Models:
    """What is served, by which engine, with which weights."""
    return Models(models=[_describe(name, model, serving) for name, model in serving.models.items()])


@router.get("/livez")
async def livez() -> Status:
    """The process answers."""
    return Status(status="alive")


@router.get("/readyz", responses=responses(NotReady))
async def readyz(serving: Annotated[Serving, Depends(serving)]) -> Status:
    """The default model's engine is warm and has answered."""
    serving.model()
    return Status(status="ready")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes: nobody is left to read it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes next is the disconnect
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _classification(model: Model, answer: Answer, total: float, request_id: str) -> Classification:
    return Classification(
        predictions=[
            Prediction(rank=rank, index=label.index, wnid=label.wnid, label=label.label, score=score)
            for rank, (label, score) in enumerate(answer.classes, start=1)
        ],
        model=AnsweredBy(
            name=model.bundle.name,
            resolution=answer.resolution,
            engine=model.engine.name,
            precision=model.engine.precision,
            weights=model.bundle.manifest.weights.id,
        ),
        timing_ms=Timing(
            decode=_milliseconds(answer.decode),
            queue=_milliseconds(answer.queue),
            inference=_milliseconds(answer.inference),
            total=_milliseconds(total),
        ),
        request_id=request_id,
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _describe(name: str, model: Model, serving: Serving) -> ServedModel:
    manifest = model.bundle.manifest
    return ServedModel(
        name=name,
        default=name == serving.default,
        resolutions=model.bundle.resolutions,
        default_resolution=manifest.default_resolution,
        loaded_resolutions=model.loaded,
        classes=manifest.classes,
        engine=model.engine.name,
        precision=model.engine.precision,
        weights=manifest.weights.id,
        weights_source=manifest.weights.source,
        bundle=model.bundle.hash,
    )
