"""The options and the JSON of POST /explain and POST /embed."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import AnsweredBy, ImageOptions, Prediction, Timing
from app.serving.explanation_fields import MOST_EXPLAINED, BranchChoice, MapKind
from model.spec import RESOLUTIONS


class InspectionOptions(ImageOptions):
    """The options that both routes have."""

    resolution: Annotated[
        int | None,
        Field(
            description="the resolution to answer at, such as 224; the model's own if left out",
            json_schema_extra={"examples": [*RESOLUTIONS]},  # the allowed values depend on the model's bundle
        ),
    ] = None


class ExplainOptions(InspectionOptions):
    """The options of POST /explain."""

    class_: Annotated[
        str | None,
        Field(
            alias="class",
            description="the class to explain, by its index, wnid or label; the best ones if left out",
            json_schema_extra={"examples": ["0"]},
        ),
    ] = None
    top_k: Annotated[
        int, Field(ge=1, le=MOST_EXPLAINED, description="how many of the best classes to explain, from 1 to 5")
    ] = 1
    branch: Annotated[
        BranchChoice,
        Field(description="both, small or large: the branches whose maps the image shows, if one is asked"),
    ] = "both"
    map: Annotated[
        MapKind,
        Field(description="contributions or attention: what the image shows, if one is asked"),
    ] = "contributions"
    opacity: Annotated[
        float, Field(ge=0, le=1, description="from 0 to 1, of the strongest place in the image, if one is asked")
    ] = 0.8


class EmbedOptions(InspectionOptions):
    """The options of POST /embed."""

    branch: Annotated[BranchChoice, Field(description="both, small or large: the branches whose numbers to return")] = (
        "both"
    )
    normalize: Annotated[bool, Field(description="true or false: whether the embedding has the length 1")] = False


class BranchMap(BaseModel):
    """What the patches of one branch give to the class's logit through the last fusion, signed."""

    grid: Annotated[list[list[float]], Field(description="one number for each patch, row by row from the top")]
    sum: Annotated[float, Field(description="of the grid")]
    share: Annotated[
        float,
        Field(
            description="-1 to 1: the sum, by the sizes of what makes the logit: this sum, that of the other branch, "
            "and the rest. It is sum / logit where all three have one sign"
        ),
    ]


class Contributions(BaseModel):
    """The maps of both branches; the small one has the smaller patches."""

    small: BranchMap
    large: BranchMap


class Explanation(Prediction):
    """A class, and what the image's patches give to its logit."""

    logit: float
    contributions: Contributions


class AttentionMaps(BaseModel):
    """How much of each patch the other branch's CLS takes in the last fusion: the mean of its heads, 0 to 1."""

    small: list[list[float]]
    large: list[list[float]]


class CropBox(BaseModel):
    """The part of the picture that the network sees and that the grids lie over, in the picture's pixels."""

    left: float
    top: float
    width: float
    height: float


class PictureGeometry(BaseModel):
    """The picture as people see it, its orientation in Exif applied, in pixels."""

    width: int
    height: int
    crop: CropBox


class ImageExplanation(BaseModel):
    """What the network looked at in an image."""

    explanations: Annotated[list[Explanation], Field(description="of the classes, in the order that was asked for")]
    attention: AttentionMaps
    picture: PictureGeometry
    model: AnsweredBy
    timing_ms: Timing
    request_id: str


class EmbeddingSizes(BaseModel):
    """How many numbers of the embedding each branch has, the small one's first; 0 for one that is left out."""

    small: int
    large: int


class ImageEmbedding(BaseModel):
    """What the network makes of an image before its classes: images that look alike to it are near each other."""

    model_config = ConfigDict(protected_namespaces=())

    embedding: list[float]
    dimensions: EmbeddingSizes
    model: AnsweredBy
    timing_ms: Timing
    request_id: str
