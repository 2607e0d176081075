"""The manifest of a bundle, as it is written and as it is read; docs/bundle.md describes each key."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from bundle.agreement import Agreement
from bundle.atomic_files import write_json
from bundle.bundle_errors import BadBundle, first_error
from bundle.file_names import GOLDEN, LABELS, MANIFEST, MODEL
from bundle.tensors import InputName, OutputNames
from model.spec import IMAGENET, RGB, SOFTMAX, Activation, Preprocessing, variant_named

T = TypeVar("T")

ManifestFormat = Literal[3]
MANIFEST_FORMAT: ManifestFormat = 3


def _none_if_invalid(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        return None


# Read by people, or by the exporter only: a reader takes an invalid value for a missing one.
Informative = Annotated[T | None, WrapValidator(_none_if_invalid)]


MIN_CROP, MAX_RESIZE = 64, 4096


def _possible(steps: Preprocessing) -> Preprocessing:
    if not MIN_CROP <= steps.crop <= steps.resize <= MAX_RESIZE:
        raise ValueError(f"{MIN_CROP} <= crop <= resize <= {MAX_RESIZE} must hold")
    return steps


PossiblePreprocessing = Annotated[Preprocessing, AfterValidator(_possible)]


class WeightsInfo(BaseModel):
    """Where the weights came from.

    Attributes:
        id: "sha256:…" of the checkpoint file, or "untrained".
        source: the file, or the repository on the hub.
        resolution: what the position embeddings were trained for.
        sides: those of both branches (S, L) in pixels; earlier versions did not write them.
        caution: the warning that the service logs at start.
    """

    id: Annotated[str, Field(pattern=r"^(untrained|sha256:[0-9a-f]{64})$")]
    source: str
    resolution: Informative[int] = None
    sides: Informative[tuple[int, int]] = None
    caution: str | None = None


class Parity(BaseModel):
    """How ONNX Runtime agreed with PyTorch: `worst` is the largest difference of any output at each resolution."""

    reference: str
    engine: str
    batches: tuple[int, ...]
    tolerance: float
    worst: dict[int, float]


class Photographs(BaseModel):
    """The photographs that something was made or measured on: "shipped", or a folder, and a hash of those used."""

    source: str
    sha256: str


class HalfPrecision(BaseModel):
    """How the graph in half precision agreed with float32 in `engine`, at each resolution."""

    engine: str
    agreement: dict[int, Agreement]


class Quantization(BaseModel):
    """How the 8-bit graph was made; `views` counts the views to calibrate on at each resolution."""

    made_by: str
    measured_by: str
    photographs: Informative[Photographs]
    views: dict[int, int]
    smooth_quant_alpha: float
    kept_in_float32: tuple[str, ...]


class Manifest(BaseModel):
    """The content of manifest.json.

    The graph subtracts `mean` and divides by `std`; scores are the `activation` of logits. `agreement` is of what
    OpenVINO may serve in, by precision and resolution; `measured_on` are the photographs of all agreements.
    `inspection` is the parity of the inspection graph, which earlier versions did not make.
    """

    format: ManifestFormat
    variant: Annotated[str, AfterValidator(lambda name: variant_named(name).name)]
    input: InputName
    outputs: OutputNames
    mean: RGB = IMAGENET.mean  # earlier versions did not write these three
    std: RGB = IMAGENET.std
    activation: Activation = SOFTMAX
    preprocessing: dict[int, PossiblePreprocessing]
    weights: WeightsInfo
    classes: Annotated[int, Field(ge=1)]
    default_resolution: int
    built_with: Informative[dict[str, str]] = None
    files: dict[str, str]
    parity: Informative[Parity] = None
    inspection: Informative[Parity] = None
    measured_on: Informative[Photographs] = None
    precisions: dict[str, HalfPrecision] = {}
    agreement: dict[str, dict[int, Agreement]] = {}
    quantization: Informative[Quantization] = None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.default_resolution not in self.preprocessing:
            raise ValueError("no preprocessing for the default resolution")
        if missing := {MODEL, LABELS, GOLDEN} - self.files.keys():
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        return self


class ManifestHead(BaseModel):
    """The part of a manifest that can be read whatever its format is."""

    format: Informative[int] = None
    variant: Informative[str] = None
    weights: Informative[WeightsInfo] = None


def parse_manifest(content: bytes, path: Path, advice: str = "export the bundle again with this version") -> Manifest:
    """The manifest that was read from `path`. Raises BadBundle, which ends with `advice`."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as err:
        raise BadBundle(f"{path}: {first_error(err)}; {advice}") from err


def read_manifest_head(bundle: Path) -> ManifestHead | None:
    """The head of the manifest in `bundle`; None if there is no manifest, or one that is not a JSON object."""
    try:
        return ManifestHead.model_validate_json((bundle / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into `folder`. Only a bundle with an 8-bit graph has the key `quantization`."""
    absent = {"quantization"} if manifest.quantization is None else None
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude=absent))
