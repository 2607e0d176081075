"""The JSON of the service's own routes: pydantic models, whose texts are shown in the OpenAPI document."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from bundle.agreement import Agreement
from bundle.calibration import LEAST_COVERAGE, MOST_COVERAGE
from model.spec import RESOLUTIONS, Activation

AUTO_RESOLUTION: Final = "auto"
_WHOLE_NUMBER = TypeAdapter(int)


def _resolution(value: object) -> object:
    """A whole number, "auto" or None. Not a union of types: an error would name the types and not the option."""
    if value is None or value == AUTO_RESOLUTION:
        return value
    try:
        return _WHOLE_NUMBER.validate_python(value)
    except ValidationError as err:
        raise ValueError("must be a whole number, or auto") from err


class ImageOptions(BaseModel):
    """Options of a route that takes images, in the query or the form. Error messages repeat the descriptions."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: Any) -> Any:
        """An empty option counts as left out: an HTML form sends its empty fields."""
        is_options = isinstance(values, Mapping)
        return {key: value for key, value in values.items() if value != ""} if is_options else values

    model: Annotated[str | None, Field(description="the name of a served model; the default if left out")] = None

    @classmethod
    def names(cls) -> list[str]:
        """The names of the options, as they are written in a query."""
        return [field.alias or name for name, field in cls.model_fields.items()]


class ClassifyOptions(ImageOptions):
    """The options of POST /classify."""

    top_k: Annotated[int, Field(ge=1, le=50, description="how many classes to return, from 1 to 50")] = 5
    resolution: Annotated[
        int | Literal["auto"] | None,
        PlainValidator(_resolution),
        WithJsonSchema({"anyOf": [{"type": "integer"}, {"const": AUTO_RESOLUTION}]}),
        Field(
            description="the resolution to classify at, such as 224; the model's own if left out; auto for the cheap "
            "step of a cascade first, and the dear one only where the cheap one is not sure",
            json_schema_extra={"examples": [*RESOLUTIONS, AUTO_RESOLUTION]},  # those allowed depend on the bundle
        ),
    ] = None
    coverage: Annotated[
        float | None,
        Field(
            ge=LEAST_COVERAGE,
            le=MOST_COVERAGE,
            description="the probability, from 0.5 to 0.99, that the classes of the answer's prediction_set hold the "
            "true one; the model's scores have to be calibrated",
        ),
    ] = None
    details: Annotated[
        Literal["branches"] | None,
        Field(description="branches, for what each of the network's two branches says by itself"),
    ] = None


class Prediction(BaseModel):
    """One class. `index` or `wnid` identifies it; labels are for people and may repeat."""

    rank: Annotated[int, Field(description="1 for the best")]
    index: int
    wnid: Annotated[str | None, Field(description="WordNet id, where the labels have one")]
    label: str
    score: Annotated[
        float,
        Field(
            description="0 to 1: softmax of the logits, or sigmoid of the class's own logit where the model's "
            "`activation` is sigmoid; of the logits divided by a fitted temperature where `model.calibrated` is true"
        ),
    ]


class AnsweredBy(BaseModel):
    """The model and engine that gave an answer."""

    name: str
    resolution: int
    engine: str
    precision: str
    weights: Annotated[str, Field(description='"sha256:…" of the checkpoint, or "untrained"')]
    weights_source: Annotated[str, Field(description="what the checkpoint is and where it came from")]
    calibrated: Annotated[
        bool, Field(description="whether scores are probabilities, on data like that of `crossvit calibrate`")
    ] = False  # of an older service


class CascadeStepNumber(BaseModel):
    """Which step of a cascade answered: 1 is the cheap one."""

    number: int
    of: int


class PredictionSet(BaseModel):
    """The classes of which one is the true one, with at least the probability `coverage`: the best first.

    So it is on average over images like those that the scores were calibrated on, and not for each image or class.
    """

    coverage: Annotated[float, Field(description="that which was asked for, or the next higher one that was fitted")]
    classes: list[Prediction]


class Branches(BaseModel):
    """The best class of each of the network's two branches by itself, whose scores are not calibrated.

    `small` has the smaller patches, `large` the larger ones.
    """

    small: Prediction
    large: Prediction
    disagreement: Annotated[
        float, Field(description="Jensen-Shannon divergence of the branches' scores in bits: 0 if they agree, up to 1")
    ]


class Timing(BaseModel):
    """Milliseconds. `queue` is the wait for a decoder and for the engine; `inference` is that of the whole batch."""

    decode: float
    queue: float
    inference: float
    total: float


class Classification(BaseModel):
    """The best classes for an image, the best first."""

    predictions: list[Prediction]
    prediction_set: Annotated[PredictionSet | None, Field(description="with the option coverage")] = None
    branches: Annotated[Branches | None, Field(description="with the option details=branches")] = None
    step: Annotated[
        CascadeStepNumber | None, Field(description="with resolution=auto, or where a brown-out chose the cheaper step")
    ] = None
    model: AnsweredBy
    timing_ms: Timing
    request_id: str


class ImageResult(BaseModel):
    """The result for one file: its `predictions` and what else was asked for, or the `problem` that prevented them."""

    index: Annotated[int, Field(description="of the file in the request, from 0")]
    filename: str
    predictions: list[Prediction] | None = None
    prediction_set: PredictionSet | None = None
    branches: Branches | None = None
    step: CascadeStepNumber | None = None
    model: Annotated[AnsweredBy | None, Field(description="with `step`: what answered this image")] = None
    problem: "Problem | None" = None


class BatchClassification(BaseModel):
    """One result for each file, in the order of the request."""

    results: list[ImageResult]
    model: AnsweredBy
    total_ms: float
    request_id: str


class Fallback(BaseModel):
    """An engine that was passed over for a resolution, or `jpeg-gpu`: decoding JPEGs on the GPU."""

    engine: str
    resolution: int
    reason: Annotated[str, Field(description="what was found, and what would help")]


class ScoresInfo(BaseModel):
    """A calibration of a model's scores, which crossvit calibrate made."""

    precision: str
    resolution: int
    temperature: float
    images: Annotated[int, Field(description="labelled images that it was fitted to")]
    data: Annotated[list[str], Field(description="what was named as data")]
    top1: Annotated[float, Field(description="accuracy on these images")]
    ece_before: Annotated[float, Field(description="expected calibration error without the temperature")]
    ece_after: Annotated[float, Field(description="with it, on images that it was not fitted to")]
    coverages: Annotated[
        list[float], Field(description="least and most coverage of prediction sets; empty if there are none")
    ]


class CascadeStepInfo(BaseModel):
    """A step of a cascade; `accuracy` is its own, on the labelled images of the fit."""

    model: str
    resolution: int
    precision: str
    accuracy: float


class CascadeInfo(BaseModel):
    """A cascade that begins with the model, for resolution=auto, which crossvit calibrate made."""

    steps: Annotated[list[CascadeStepInfo], Field(description="the cheap one first")]
    threshold: Annotated[float, Field(description="the score of the best class from which on the first step answers")]
    goal: str
    images: Annotated[int, Field(description="labelled images that it was fitted to")]
    accuracy: Annotated[float, Field(description="of the cascade, on images that it was not fitted to")]
    answered_by_first: Annotated[float, Field(description="the share of these that the first step answered")]
    served: Annotated[bool, Field(description="whether what is served now is what it was fitted for")]


class Links(BaseModel):
    """What GET / answers: the paths to go on with."""

    service: str
    classify: Annotated[str, Field(description="POST an image there")]
    models: str
    ready: str
    docs: Annotated[str | None, Field(description="the interface, to try in a browser; null with --no-docs")]


class ModelInfo(BaseModel):
    """A model. The fields that describe its bundle are null while none is loaded."""

    name: str
    default: bool
    state: Annotated[str, Field(description="READY, LOADING or UNAVAILABLE")]
    reason: Annotated[str, Field(description="why it is not ready; empty if it is")]
    quantizing: Annotated[bool, Field(description="whether its graph in 8 bits is being made in the background")] = (
        False
    )
    variant: str | None = None
    resolutions: list[int] = []
    default_resolution: int | None = None
    loaded_resolutions: Annotated[list[int], Field(description="the others load at their first request")] = []
    classes: int | None = None
    activation: Annotated[
        Activation | None, Field(description="how scores are made from logits; with sigmoid their sum is not 1")
    ] = None
    mean: Annotated[
        list[float] | None, Field(description="R, G and B; the graph subtracts it from pixels of 0 to 1")
    ] = None
    std: Annotated[list[float] | None, Field(description="R, G and B; the graph then divides by it")] = None
    engine: Annotated[str | None, Field(description="the engine of the default resolution")] = None
    precision: str | None = None
    agreement: Annotated[
        dict[int, Agreement],
        Field(description="how the engines of the loaded resolutions agreed with float32; without those in float32"),
    ] = {}
    calibrated: Annotated[
        bool | None, Field(description="whether the scores at the default resolution are calibrated")
    ] = None
    calibrations: Annotated[
        list[ScoresInfo], Field(description="those of the model's scores, by precision and resolution")
    ] = []
    cascades: Annotated[list[CascadeInfo], Field(description="those that resolution=auto may take")] = []
    fallbacks: Annotated[list[Fallback], Field(description="the engines that were passed over, and why")] = []
    explains: Annotated[
        bool, Field(description="whether its bundle has the graph that explains and embeds: /explain, /embed")
    ] = False
    weights: str | None = None
    weights_source: str | None = None
    warning: Annotated[str | None, Field(description="why its answers mean nothing, or little")] = None
    bundle: Annotated[str | None, Field(description="sha256 of the bundle's manifest")] = None


class InstanceCount(BaseModel):
    """How many instances the service has, and in how many of them the default model is ready."""

    total: int
    ready: int


class ModelList(BaseModel):
    """All models that the service knows, served or not."""

    models: list[ModelInfo]
    instances: InstanceCount = InstanceCount(total=1, ready=1)  # of an older service


class Reloaded(BaseModel):
    """`faults` are the errors by model; a model that was served before still is."""

    faults: list[str]


class Status(BaseModel):
    """The answer of a probe."""

    status: str


class Problem(BaseModel):
    """RFC 9457 problem details. `reason` is by default the status in one word, such as NotFound."""

    type: str = "about:blank"
    title: str
    status: int
    reason: str = Field(
        default_factory=lambda data: "".join(re.findall("[A-Za-z]+", HTTPStatus(data["status"]).phrase.title())),
        description="which error this is, for programs",
    )
    detail: str
    request_id: str
