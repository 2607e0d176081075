"""POST /explain and POST /embed: what the network looked at in an image, and what it makes of it before its classes."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from app.api.accept_header import accepted_types
from app.api.auth import AccessLevel
from app.api.dependencies import (
    SINGLE_PARAMETERS,
    ServiceDep,
    caller_id,
    require_access,
    run_while_connected,
    seconds_since_start,
)
from app.api.image_requests import (
    BINARY_STRING,
    IMAGE_REQUEST,
    IMAGE_REQUEST_ERRORS,
    answered_by,
    in_milliseconds,
    read_image_request,
)
from app.api.inspection_schemas import (
    EmbedOptions,
    ExplainOptions,
    ImageEmbedding,
    ImageExplanation,
    InspectionOptions,
)
from app.api.problems import error_responses
from app.api.schemas import AnsweredBy
from app.errors import BadImage, BadParameter, NoInspection, NotAnImage
from app.inspection.inspector import INSPECTION_ENGINE
from app.serving.class_choice import chosen_class
from app.serving.explanation_fields import drawn_grids, explanation_fields, rounded, with_length_one
from app.serving.model_inspection import InspectionAnswer
from app.serving.served_model import ServedModel
from app.timing import Interval
from bundle.precisions import F32

router = APIRouter(redirect_slashes=False, tags=["Inspection"])

_PNG = "image/png"
_ERRORS = error_responses(*IMAGE_REQUEST_ERRORS, NoInspection, NotAnImage, BadImage)
_EXPLAINED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or with `Accept: image/png` the picture with the first class's map over it",
        "content": {_PNG: {"schema": BINARY_STRING}},
    }
}


@router.post(
    "/explain",
    summary="Explain the classes of an image",
    openapi_extra=IMAGE_REQUEST,
    response_model=ImageExplanation,
    responses=_EXPLAINED | _ERRORS,
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def explain_image(
    request: Request, response: Response, options: Annotated[ExplainOptions, Query()], service: ServiceDep
) -> Any:
    """What each patch gives to a class's logit through the last fusion, and how much of it the network takes.

    With `Accept: image/png` the answer is the picture, upright, with the map of the first class over it.
    """
    deadline = service.deadline(request)
    reading = read_image_request(
        request, service, options, lambda body: body.image(ExplainOptions.names()), _check_explain
    )
    async with reading as (model, options, upload):
        resolution, classes = model.resolution(options.resolution), _classes(model, options)
        body, caller = upload.files[0].content, caller_id(request)

        async def explained() -> tuple[InspectionAnswer, bytes]:
            answer = await model.inspection.explain(body, classes, resolution, deadline, caller=caller)
            if not prefers_png(request.headers.get("Accept", "")):
                return answer, b""
            grids = drawn_grids(answer.image, options.map, options.branch)
            png, drawing = await model.inspection.draw(
                body, grids, options.opacity, resolution, deadline, caller=caller
            )
            answer.stages.append(("overlay", drawing))
            return answer, png

        try:
            answer, png = await run_while_connected(request, explained())
        except (NotAnImage, BadImage) as err:
            raise upload.with_content_type(err) from err
    request.state.stages += answer.stages
    if png:
        return Response(png, media_type=_PNG, headers={"Vary": "Accept"})
    response.headers["Vary"] = "Accept"
    return _explanation(model, resolution, answer) | _common(request, model, resolution, answer.stages)


@router.post(
    "/embed",
    summary="Embed an image",
    openapi_extra=IMAGE_REQUEST,
    responses=_ERRORS,
    dependencies=[require_access(AccessLevel.KEY, rate_limited=True), SINGLE_PARAMETERS],
)
async def embed_image(
    request: Request, options: Annotated[EmbedOptions, Query()], service: ServiceDep
) -> ImageEmbedding:
    """The normalised CLS of both branches, the small one's numbers first."""
    deadline = service.deadline(request)
    reading = read_image_request(request, service, options, lambda body: body.image(EmbedOptions.names()), _check_embed)
    async with reading as (model, options, upload):
        resolution = model.resolution(options.resolution)
        bodies = [upload.files[0].content]
        work = model.inspection.embed(bodies, resolution, deadline, caller=caller_id(request))
        try:
            (answer,) = await run_while_connected(request, work)
        except (NotAnImage, BadImage) as err:
            raise upload.with_content_type(err) from err
    request.state.stages += answer.stages
    parts = answer.image.embeddings_of(options.branch)
    whole = np.concatenate(parts)
    return ImageEmbedding.model_validate({
        "embedding": rounded(with_length_one(whole) if options.normalize else whole),
        "dimensions": {"small": len(parts[0]), "large": len(parts[1])},
        **_common(request, model, resolution, answer.stages),
    })  # fmt: skip


def prefers_png(accept: str) -> bool:
    """Whether an Accept header prefers an image to JSON; a wildcard for all does not. Source: RFC 9110, 12.5.1."""
    qualities = accepted_types(accept)
    image = qualities.get(_PNG, qualities.get("image/*", 0.0))
    return image > max(qualities.get(kind, 0.0) for kind in ("application/json", "application/*"))


def _check_explain(model: ServedModel, options: ExplainOptions, caller: str) -> None:
    _classes(model, options)
    _check_embed(model, options, caller)


def _check_embed(model: ServedModel, options: InspectionOptions, caller: str) -> None:
    model.resolution(options.resolution)
    model.inspection.check(caller=caller)


def _classes(model: ServedModel, options: ExplainOptions) -> tuple[int, ...]:
    """The classes to explain, as InspectionInput has them."""
    if options.class_ is not None:
        if options.top_k > 1:
            raise BadParameter("class names one class, and top_k asks for several: leave one of them out")
        return (chosen_class(model.bundle.labels, options.class_),)
    return tuple(-rank for rank in range(1, min(options.top_k, model.bundle.manifest.classes) + 1))


def _explanation(model: ServedModel, resolution: int, answer: InspectionAnswer) -> dict[str, Any]:
    calibration = model.calibrations.at(F32, resolution)
    return explanation_fields(model.bundle, resolution, answer, calibration.temperature if calibration else 1.0)


def _common(
    request: Request, model: ServedModel, resolution: int, stages: list[tuple[str, Interval]]
) -> dict[str, Any]:
    """What every answer says of itself."""
    seconds = {name: interval.seconds for name, interval in stages}
    return {
        "model": inspected_by(model, resolution),
        "timing_ms": {
            "decode": in_milliseconds(seconds["decode"]),
            "queue": in_milliseconds(seconds["decoder_wait"] + seconds["queue"]),
            "inference": in_milliseconds(seconds["inference"]),
            "total": in_milliseconds(seconds_since_start(request)),
        },
        "request_id": request.state.request_id,
    }


def inspected_by(model: ServedModel, resolution: int) -> AnsweredBy:
    """Who answered: the inspection graph, whatever engine and precision classify."""
    calibrated = model.calibrations.at(F32, resolution) is not None
    return answered_by(model, resolution, (INSPECTION_ENGINE, F32), calibrated=calibrated)
