"""What answers a request: the model that it names, a cascade that begins with it, or a cheaper step under load."""

from dataclasses import replace

from app.api.dependencies import Service
from app.api.schemas import AUTO_RESOLUTION, ClassifyOptions
from app.errors import BadParameter
from app.serving.cascade import Cascade, ServedStep
from app.serving.served_model import ServedModel

AnswerPlan = ServedStep | Cascade

_FIRST_STEP_ONLY, _DEFAULTS_TOO = 1, 2  # rungs of app.serving.brown_out


def answer_plan(service: Service, model: ServedModel, options: ClassifyOptions) -> AnswerPlan:
    """What answers a request for `model` with these options.

    Raises BadParameter, or NotCalibrated if they ask for what needs a calibration. With --brown-out it is the first
    step of a cascade where the images that wait take long: for resolution=auto, and further up for requests that name
    no resolution and would have had the second step.
    """
    if options.resolution == AUTO_RESOLUTION:
        return _auto(service, model, options)
    step = ServedStep(model, model.resolution(options.resolution))
    if options.coverage is not None:
        model.check_coverage(step.resolution, options.coverage)
    elif service.brown_out is not None and options.resolution is None:
        cascade = service.repository.cascade_to(model, step.resolution)
        if cascade is not None and service.brown_out.rung(cascade) >= _DEFAULTS_TOO:
            return replace(cascade.first, brown_out=_DEFAULTS_TOO)
    return step


def _auto(service: Service, model: ServedModel, options: ClassifyOptions) -> AnswerPlan:
    if options.coverage is not None:
        raise BadParameter(
            "coverage goes with one resolution, not with resolution=auto: how often a set holds the true class was not "
            "measured for the images that a step of a cascade answers"
        )
    cascade = service.repository.cascade(model)
    if service.brown_out is not None and service.brown_out.rung(cascade) >= _FIRST_STEP_ONLY:
        return replace(cascade.first, brown_out=_FIRST_STEP_ONLY)
    return cascade
