"""The service's answers, as they stand in the OpenAPI document."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.spec import RESOLUTIONS, Activation


class ClassifyOptions(BaseModel):
    """The query of POST /classify. The descriptions also stand in error messages."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: Any) -> Any:
        """An option that is empty counts as left out: a form in a page sends its empty fields."""
        is_options = isinstance(values, Mapping)
        return {key: value for key, value in values.items() if value != ""} if is_options else values

    top_k: Annotated[int, Field(ge=1, le=50, description="how many classes to return, from 1 to 50")] = 5
    resolution: Annotated[
        int | None,
        Field(
            description="the resolution to classify at, such as 224; the model's own if left out",
            json_schema_extra={"examples": [*RESOLUTIONS]},  # the model's bundle says which there are
        ),
    ] = None
    model: Annotated[str | None, Field(description="the name of a model that is served; the default if left out")] = (
        None
    )


class Prediction(BaseModel):
    """One class. `index` or `wnid` identifies it; labels are for people and not all unique."""

    rank: Annotated[int, Field(description="1 for the best")]
    index: int
    wnid: Annotated[str | None, Field(description="WordNet id, where the labels have one")]
    label: str
    score: Annotated[
        float,
        Field(
            description="0 to 1: softmax of the logits, or the sigmoid of the class's own where the model's "
            "`activation` is that"
        ),
    ]


class AnsweredBy(BaseModel):
    """What gave an answer."""

    name: str
    resolution: int
    engine: str
    precision: str
    weights: Annotated[str, Field(description='"sha256:…" of the checkpoint, or "untrained"')]
    weights_source: Annotated[str, Field(description="where the checkpoint came from, and what it is")]


class Timing(BaseModel):
    """Milliseconds. `queue` is waiting, for a decoder and for the engine; `inference` is the whole batch's."""

    decode: float
    queue: float
    inference: float
    total: float


class Classification(BaseModel):
    predictions: list[Prediction]
    model: AnsweredBy
    timing_ms: Timing
    request_id: str


class ImageResult(BaseModel):
    """What became of one file: `predictions`, or the `problem` that kept it from having some."""

    index: Annotated[int, Field(description="of the file in the request, from 0")]
    filename: str
    predictions: list[Prediction] | None = None
    problem: "Problem | None" = None


class BatchClassification(BaseModel):
    """One result for each file, in their order."""

    results: list[ImageResult]
    model: AnsweredBy
    total_ms: float
    request_id: str


class Fallback(BaseModel):
    """An engine that could be expected to serve a resolution and cannot, or `jpeg-gpu`: decoding JPEGs on the GPU."""

    engine: str
    resolution: int
    reason: Annotated[str, Field(description="what was seen, and what would mend it")]


class ModelInfo(BaseModel):
    """A model. What describes its bundle is null while there is none loaded."""

    name: str
    default: bool
    state: Annotated[str, Field(description="READY, LOADING or UNAVAILABLE")]
    reason: Annotated[str, Field(description="why it is not ready; empty if it is")]
    variant: str | None = None
    resolutions: list[int] = []
    default_resolution: int | None = None
    loaded_resolutions: Annotated[list[int], Field(description="others load at their first request")] = []
    classes: int | None = None
    activation: Annotated[
        Activation | None, Field(description="what makes scores of logits: with sigmoid they do not add up to 1")
    ] = None
    mean: Annotated[
        list[float] | None, Field(description="that the graph subtracts from pixels of 0 to 1, in R, G and B")
    ] = None
    std: Annotated[list[float] | None, Field(description="that it then divides them by")] = None
    engine: Annotated[str | None, Field(description="of the default resolution")] = None
    precision: str | None = None
    fallbacks: Annotated[list[Fallback], Field(description="what was passed over, and why")] = []
    weights: str | None = None
    weights_source: str | None = None
    warning: Annotated[str | None, Field(description="that its answers mean nothing, or little, and why")] = None
    bundle: Annotated[str | None, Field(description="sha256 of the bundle's manifest")] = None


class ModelList(BaseModel):
    models: list[ModelInfo]


class Reloaded(BaseModel):
    """`faults` are what went wrong, by model; what was served before still is."""

    faults: list[str]


class Status(BaseModel):
    status: str


class Problem(BaseModel):
    """RFC 9457 problem details. Without a `reason` of its own a problem has that of its status, such as NotFound."""

    type: str = "about:blank"
    title: str
    status: int
    reason: str = Field(
        default_factory=lambda data: "".join(re.findall("[A-Za-z]+", HTTPStatus(data["status"]).phrase.title())),
        description="which error this is, for programs",
    )
    detail: str
    request_id: str


class OipError(BaseModel):
    """An error of the Open Inference Protocol."""

    error: str
