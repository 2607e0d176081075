"""What the dialects of other services share: images in, each with the answer of the model that gave it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastapi import Request, Response

from app.api.answer_plan import answer_plan
from app.api.classify_routes import BROWN_OUT_HEADER, step_fields
from app.api.dependencies import Service, caller_id, run_while_connected
from app.api.dialect_schemas import HUGGING_FACE_ADVICE
from app.api.oip_operations import pixel_resolution
from app.api.request_body import RequestBody, Upload
from app.api.schemas import ClassifyOptions
from app.decoding.decoder_memory import PixelBlock
from app.decoding.dialect_requests import Dialect, ScoreFunction
from app.errors import BadImage, BadInference, BadParameter, NotAnImage, TooLarge
from app.serving.served_model import ModelAnswer, ServedModel
from app.timing import until_deadline
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel
from bundle.scores import best_classes
from model.spec import SOFTMAX

_DEFAULTS = ClassifyOptions()


class DialectImages(NamedTuple):
    """The images of a request, its parameters, and how the image came if it was not in JSON."""

    tensor: PixelBlock | list[bytes]
    parameters: dict[str, Any]
    upload: Upload | None = None


class ImageAnswer(NamedTuple):
    """The answer for an image, and the model that gave it."""

    model: ServedModel
    answer: ModelAnswer


async def refuse_query(request: Request) -> None:
    """BadParameter for a query: these routes have their parameters in the JSON, or none."""
    for name in request.query_params:
        raise BadParameter(f"unknown parameter {name[:40]!r} in the query: this route takes none there")


@contextmanager
def open_request(request: Request, service: Service, name: str | None) -> Iterator[tuple[ServedModel, RequestBody]]:
    """The model, in use until the block ends, and the request's body."""
    model = service.model(request, name)
    with model.in_use(), service.body_limits.open_body(request) as body:
        yield model, body


def check_room(request: Request, service: Service, model: ServedModel) -> None:
    """Refuse a request whose caller has no room in the queue before its body is read."""
    answer_plan(service, model, _DEFAULTS).first.model.check(caller=caller_id(request))


async def read_image_or_json(
    request: Request, service: Service, model: ServedModel, body: RequestBody, deadline: float
) -> DialectImages:
    """The image of a request of Hugging Face: in JSON where the Content-Type says so, else the body itself."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json":
        work = parsed_images(request, service, model, await body.whole(), "huggingface", deadline)
        return await run_while_connected(request, work)
    return uploaded_image(await body.image(advice=HUGGING_FACE_ADVICE))


def uploaded_image(upload: Upload) -> DialectImages:
    return DialectImages([upload.files[0].content], {}, upload)


async def parsed_images(
    request: Request, service: Service, model: ServedModel, body: bytes, dialect: Dialect, deadline: float
) -> DialectImages:
    """The images in the JSON of `body`, which are charged. Raises as DecoderPool.dialect does."""
    caller = caller_id(request)
    with model.room(caller=caller):  # parsing the body costs as much as an image
        async with until_deadline(deadline):
            asked, tensor = await service.decoders.dialect(
                body, dialect, max_images=service.settings.max_images, deadline=deadline, caller=caller
            )
    try:
        await service.charge(request, len(tensor) if isinstance(tensor, list) else tensor.shape[0])
    except BaseException:
        if isinstance(tensor, PixelBlock):
            tensor.release()
        raise
    return DialectImages(tensor, dict(asked.parameters))


def files_only(images: DialectImages) -> list[bytes]:
    """The image files; BadInference for pixels, which are released."""
    if isinstance(images.tensor, PixelBlock):
        images.tensor.release()
        raise BadInference("instances must be image files in base64 here, not pixels")
    return images.tensor


def wanted_classes(model: ServedModel, images: DialectImages) -> int:
    """How many of the best classes were asked for, or five, as far as there are so many."""
    wanted: int = images.parameters.get("top_k", _DEFAULTS.top_k)
    return min(wanted, model.bundle.manifest.classes)


async def classified_images(
    request: Request, service: Service, model: ServedModel, images: DialectImages, deadline: float, best: int
) -> list[ImageAnswer]:
    """The answer for each image, with `best` classes or, where it is 0, with logits. The first error ends them all."""
    if isinstance(images.tensor, PixelBlock):
        return await _classified_pixels(request, model, images.tensor, deadline)
    plan = answer_plan(service, model, _DEFAULTS)
    outcomes = await plan.classify_each(images.tensor, deadline, best=best, caller=caller_id(request))
    answers = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ExplainedError):
            raise _explained(outcome, index, images) from outcome
        step_fields(request, outcome.step)
        request.state.stages = outcome.answer.stages  # of the last image, which shows what the others waited for
        answers.append(ImageAnswer(outcome.step.model, outcome.answer))
    return answers


async def _classified_pixels(
    request: Request, model: ServedModel, pixels: PixelBlock, deadline: float
) -> list[ImageAnswer]:
    try:
        resolution = pixel_resolution(model, pixels.shape[1:])
        found = await model.classify_pixels(pixels, resolution, deadline, caller=caller_id(request))
    finally:
        pixels.release()
    request.state.stages = found[-1].stages
    return [ImageAnswer(model, answer) for answer in found]


def _explained(err: ExplainedError, index: int, images: DialectImages) -> ExplainedError:
    """`err` with what the client needs to find the image, and why it is none."""
    if not isinstance(err, NotAnImage | BadImage | TooLarge):
        return err
    if images.upload is not None:
        return images.upload.with_content_type(err)
    return type(err)(f"instances[{index}]: {err}") if len(images.tensor) > 1 else err  # type: ignore[arg-type]


def best_labels(one: ImageAnswer, count: int, function: ScoreFunction | None = None) -> list[tuple[ClassLabel, float]]:
    """The best classes with the scores of `function`, or of the model's activation, with its calibration."""
    labels, activation = one.model.bundle.labels, one.model.bundle.manifest.activation
    if one.answer.result.best:
        return one.answer.best(labels)
    logits, calibration = one.answer.outputs[0], one.answer.calibration
    if function in (None, activation):
        best = best_classes(logits, count, activation, calibration.temperature if calibration else 1.0)
    else:
        best = best_classes(logits, count, SOFTMAX if function == "none" else function)
    return [(labels[index], float(logits[index]) if function == "none" else score) for index, score in best]


def name_brown_out(request: Request, response: Response) -> None:
    """Set the header of the response that names the rung of the brown-out, if a cheaper step has answered."""
    if rung := getattr(request.state, "brown_out", 0):
        response.headers[BROWN_OUT_HEADER] = str(rung)
