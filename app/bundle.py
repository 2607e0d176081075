"""Reading a bundle: the folder that `export/` writes, checked against its manifest before anything is believed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.errors import BadBundle
from model.spec import Preprocessing, variant_named

T = TypeVar("T")

MANIFEST = "manifest.json"
MODEL = "model.onnx"
LABELS = "labels.json"
UNTRAINED = "untrained"


class Weights(BaseModel):
    """`id` is "sha256:…" of the checkpoint file, or "untrained"."""

    id: Annotated[str, Field(pattern=r"^(untrained|sha256:[0-9a-f]{64})$")]
    source: str


def _possible(steps: Preprocessing) -> Preprocessing:
    if not 64 <= steps.crop <= steps.resize <= 4096:
        raise ValueError("64 <= crop <= resize <= 4096 must hold")
    return steps


Steps = Annotated[Preprocessing, AfterValidator(_possible)]


class Manifest(BaseModel):
    """What a bundle says of itself; see docs/bundle.md."""

    model_config = ConfigDict(extra="ignore")  # what the exporter adds for people to read

    format: Literal[1]
    variant: Annotated[str, AfterValidator(lambda name: variant_named(name).name)]
    weights: Weights
    classes: Annotated[int, Field(ge=1)]
    preprocessing: dict[int, Steps]
    default_resolution: int
    input: Literal["image"]
    outputs: tuple[Literal["logits"], Literal["logits_small"], Literal["logits_large"]]
    files: dict[str, str]


class Label(BaseModel):
    index: int
    wnid: str | None
    label: str


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says. `hash` is the sha256 of the manifest, so of all of it."""

    path: Path
    manifest: Manifest
    labels: list[Label]
    hash: str

    @property
    def name(self) -> str:
        return self.manifest.variant

    def graph(self) -> bytes:
        """The ONNX graph that the manifest describes; BadBundle if another one has taken its place."""
        graph = _read(self.path, MODEL)
        if hashlib.sha256(graph).hexdigest() != self.manifest.files[MODEL]:
            raise BadBundle(f"{self.path} has been replaced while it was served; restart to serve the new one")
        return graph

    @property
    def warning(self) -> str | None:
        """What whoever starts this bundle must be told, if its answers mean nothing."""
        if self.manifest.weights.id != UNTRAINED:
            return None
        return (
            f"UNTRAINED WEIGHTS: {self.name} has random weights, its answers mean nothing. "
            f"Export it with trained ones: python export/to_onnx.py --variant {self.name} --weights CHECKPOINT"
        )

    @property
    def resolutions(self) -> list[int]:
        return sorted(self.manifest.preprocessing)


def open_bundle(path: Path) -> Bundle:
    """Open and check the bundle at `path`; BadBundle says what is wrong and what would mend it."""
    raw = _read(path, MANIFEST)
    manifest = _parse(TypeAdapter(Manifest), raw, path / MANIFEST)
    if manifest.default_resolution not in manifest.preprocessing:
        raise BadBundle(f"{path / MANIFEST}: no preprocessing for the default resolution; export the bundle again")
    for name in (MODEL, LABELS):
        if _sha256(path, name) != manifest.files.get(name):
            raise BadBundle(f"{path / name} is not the file that the manifest describes; export the bundle again")
    labels = _parse(TypeAdapter(list[Label]), _read(path, LABELS), path / LABELS)
    if [label.index for label in labels] != list(range(manifest.classes)):
        raise BadBundle(
            f"{path / LABELS} does not name the model's {manifest.classes} classes; export the bundle again"
        )
    return Bundle(path, manifest, labels, f"sha256:{hashlib.sha256(raw).hexdigest()}")


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as err:
        raise BadBundle(
            f"no bundle at {path} ({name}: {err.strerror}); "
            "make one with: python export/to_onnx.py --variant crossvit_18_dagger"
        ) from err


def _parse(adapter: TypeAdapter[T], raw: bytes, path: Path) -> T:
    try:
        return adapter.validate_json(raw)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadBundle(f"{path}: {where}: {first['msg']}; export the bundle again with this version") from err


def _sha256(path: Path, name: str) -> str | None:
    try:
        with (path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
