"""Reading a bundle: the folder that `export/` writes, checked against its manifest before anything is believed."""

import hashlib
import os
import re
import shlex
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bundle.bundle_errors import BadBundle
from bundle.golden import Golden
from bundle.permissions import unreadable
from bundle.plans import Plans, open_plans
from bundle.tensors import OUTPUTS
from model.characters import controls
from model.spec import IMAGENET, RGB, SOFTMAX, Activation, Preprocessing, variant_named

T = TypeVar("T")

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GRAPHS = {
    "f32": MODEL,
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.onnx",
}  # by their precision; all but the first may lack
LABELS = "labels.json"
GOLDEN = "golden.npz"
UNTRAINED = "untrained"
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class WeightsInfo(BaseModel):
    """`id` is "sha256:…" of the checkpoint file, or "untrained"; `caution` is what its users must know."""

    id: Annotated[str, Field(pattern=r"^(untrained|sha256:[0-9a-f]{64})$")]
    source: str
    caution: str | None = None


def _possible(steps: Preprocessing) -> Preprocessing:
    if not 64 <= steps.crop <= steps.resize <= 4096:
        raise ValueError("64 <= crop <= resize <= 4096 must hold")
    return steps


Steps = Annotated[Preprocessing, AfterValidator(_possible)]


class PrecisionAgreement(BaseModel):
    """Over `images` photographs, the share `top1` with float32's best class, and the `worst` difference of any logit.

    `scale` is float32's largest logit.
    """

    images: Annotated[int, Field(ge=1)]
    top1: Annotated[float, Field(ge=0, le=1)]
    worst: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Manifest(BaseModel):
    """What a bundle says of itself; see docs/bundle.md."""

    model_config = ConfigDict(extra="ignore")  # what the exporter adds for people to read

    format: Literal[2]
    variant: Annotated[str, AfterValidator(lambda name: variant_named(name).name)]
    weights: WeightsInfo
    classes: Annotated[int, Field(ge=1)]
    preprocessing: dict[int, Steps]
    mean: RGB = IMAGENET.mean  # which the graph subtracts, as it divides by std; bundles that do not say it have these
    std: RGB = IMAGENET.std
    activation: Activation = SOFTMAX  # of the scores
    default_resolution: int
    input: Literal["image"]
    outputs: tuple[Literal["logits"], Literal["logits_small"], Literal["logits_large"]]
    files: dict[str, str]
    agreement: dict[
        str, dict[int, PrecisionAgreement]
    ] = {}  # of what OpenVINO may serve in, by precision and resolution


def _shown(label: str) -> str:
    """`label` as it can be printed: a bundle from elsewhere may have control characters in it."""
    return "".join("\ufffd" if controls(character) else character for character in label)


Shown = Annotated[str, AfterValidator(_shown)]


class ClassLabel(BaseModel):
    index: int
    wnid: Shown | None
    label: Shown


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says. `hash` is the sha256 of the manifest, so of all but the plans.

    `graphs` are open files by their precision, which outlive a bundle that is put in its place, as the files of `plans`
    do. `close` it after use.
    """

    path: Path
    manifest: Manifest
    labels: list[ClassLabel]
    hash: str
    graphs: dict[str, int]
    plans: Plans
    _golden: dict[int, Golden]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def graph_sha256(self, precision: str) -> str:
        return self.manifest.files[GRAPHS[precision]]

    def agreement(self, resolution: int) -> dict[str, float]:
        """For each precision on a CPU, the share of photographs that had float32's best class at `resolution`."""
        return {
            precision: measured[resolution].top1
            for precision, measured in self.manifest.agreement.items()
            if resolution in measured
        }

    def same_as(self, other: "Bundle") -> bool:
        """Whether there is nothing in `other` that this one has not, plans too."""
        return (self.hash, _passports(self.plans)) == (other.hash, _passports(other.plans))

    def plan_command(self, resolution: int) -> str:
        """What builds a plan for `resolution`."""
        path = shlex.quote(str(self.path))
        return f"python export/to_trt.py --variant {self.manifest.variant} --bundle {path} --resolutions {resolution}"

    def golden(self, resolution: int) -> Golden:
        """Images of `resolution`, and the logits that PyTorch gave for them."""
        return self._golden[resolution]

    def close(self) -> None:
        for file in self.graphs.values():
            os.close(file)
        self.plans.close()

    @property
    def warning(self) -> str | None:
        """What whoever starts this bundle must be told: that its answers mean nothing, or little."""
        weights = self.manifest.weights
        if self.manifest.classes == 1 and self.manifest.activation == SOFTMAX:
            return (
                f"{self.name} HAS ONE CLASS, AND SOFTMAX SCORES: they are 1 for every image. Export it again with "
                "--activation sigmoid"
            )
        if weights.id != UNTRAINED:
            return f"{self.name}: {weights.caution}" if weights.caution else None
        return (
            f"UNTRAINED WEIGHTS: {self.name} has random weights, its answers mean nothing. "
            f"Export it with trained ones: python export/to_onnx.py --variant {self.manifest.variant} "
            "--weights CHECKPOINT"
        )

    @property
    def resolutions(self) -> list[int]:
        return sorted(self.manifest.preprocessing)


def open_bundle(path: Path) -> Bundle:
    """Open and check the bundle at `path`; BadBundle says what is wrong and what would mend it."""
    try:
        path = Path(os.path.abspath(path))  # noqa: PTH100, a link keeps its own name
    except OSError as err:
        raise BadBundle(f"{path} is in the working directory, which is gone; name the whole path") from err
    if not NAME.fullmatch(path.name):
        raise BadBundle(f"{path}: the folder's name is the model's, of letters, digits, '.', '_' and '-'; rename it")
    raw = _read(path, MANIFEST)
    manifest = _parse(TypeAdapter(Manifest), raw, path / MANIFEST)
    if manifest.default_resolution not in manifest.preprocessing:
        raise BadBundle(f"{path / MANIFEST}: no preprocessing for the default resolution; export the bundle again")
    labels = _parse(TypeAdapter(list[ClassLabel]), _checked(path, LABELS, manifest), path / LABELS)
    if [label.index for label in labels] != list(range(manifest.classes)):
        raise BadBundle(
            f"{path / LABELS} does not name the model's {manifest.classes} classes; export the bundle again"
        )
    golden = _golden(_checked(path, GOLDEN, manifest), manifest, path / GOLDEN)
    graphs = _open_graphs(path, manifest)
    sides = {resolution: steps.crop for resolution, steps in manifest.preprocessing.items()}
    plans = open_plans(path, manifest.files[MODEL], sides)
    return Bundle(path, manifest, labels, f"sha256:{hashlib.sha256(raw).hexdigest()}", graphs, plans, golden)


def _golden(raw: bytes, manifest: Manifest, path: Path) -> dict[int, Golden]:
    golden = {}
    try:
        with np.load(BytesIO(raw), allow_pickle=False) as arrays:
            for resolution, steps in manifest.preprocessing.items():
                images, logits = arrays[f"images_{resolution}"], arrays[f"logits_{resolution}"]
                sides = (len(images), steps.crop, steps.crop, 3)
                if images.shape != sides or logits.shape != (len(OUTPUTS), len(images), manifest.classes):
                    raise ValueError(f"the shapes at {resolution} do not fit the manifest")
                golden[resolution] = Golden(images.astype(np.uint8), logits.astype(np.float32))
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as err:
        raise BadBundle(f"{path}: {err}; export the bundle again") from err
    return golden


def _open_graphs(path: Path, manifest: Manifest) -> dict[str, int]:
    names = {precision: name for precision, name in GRAPHS.items() if name in manifest.files or name == MODEL}
    graphs = {}
    with ExitStack() as opened:
        for precision, name in names.items():
            try:
                graphs[precision] = os.open(path / name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as err:
                raise _not_read(path, name, err) from err
            opened.callback(os.close, graphs[precision])
        with ThreadPoolExecutor(len(graphs)) as threads:
            digests = threads.map(_digest, graphs.values())
        for name, digest in zip(names.values(), digests, strict=True):
            if digest != manifest.files.get(name):
                raise _not_described(path, name)
        opened.pop_all()
    return graphs


def _digest(file: int) -> str:
    with os.fdopen(file, "rb", closefd=False) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _passports(plans: Plans) -> object:
    return {resolution: [plan.passport for plan in fit] for resolution, fit in plans.fit.items()}, plans.unfit


def _checked(path: Path, name: str, manifest: Manifest) -> bytes:
    try:
        content = (path / name).read_bytes()
    except OSError as err:
        raise _not_read(path, name, err) from err
    if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
        raise _not_described(path, name)
    return content


def _not_read(path: Path, name: str, err: OSError) -> BadBundle:
    missing = isinstance(err, FileNotFoundError)
    return _not_described(path, name) if missing else BadBundle(unreadable(path / name, err))


def _not_described(path: Path, name: str) -> BadBundle:
    return BadBundle(f"{path / name} is not the file that the manifest describes; export the bundle again")


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as err:
        if not isinstance(err, FileNotFoundError | NotADirectoryError):
            raise BadBundle(unreadable(path / name, err)) from err
        raise BadBundle(
            f"no bundle at {path} ({name}: {err.strerror}); "
            "make one with: python export/to_onnx.py --variant crossvit_9_dagger"
        ) from err


def _parse(adapter: TypeAdapter[T], raw: bytes, path: Path) -> T:
    try:
        return adapter.validate_json(raw)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadBundle(f"{path}: {where}: {first['msg']}; export the bundle again with this version") from err
