"""Opening a bundle: its files are checked against its manifest before they are used."""

import hashlib
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bundle.bundle_errors import BadBundle
from bundle.calibration import Calibration, read_calibration
from bundle.class_labels import ClassLabel, parse_labels
from bundle.file_names import GOLDEN, GRAPHS, INSPECTION, LABELS, MANIFEST, MODEL, MODEL_NAME, MODEL_NAME_RULE
from bundle.golden import Golden, parse_golden
from bundle.manifest import Manifest, parse_manifest
from bundle.permissions import unreadable
from bundle.plans import Plans, open_plans
from bundle.pulled_bundles import read_pull_record
from model.spec import SOFTMAX, UNTRAINED


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those of its manifest. `close` it after use.

    Attributes:
        path: the folder.
        name: of the model; the folder's unless another one was given.
        manifest: the content of manifest.json.
        labels: of the classes, in the order of their indices.
        hash: "sha256:…" of manifest.json, and so of everything but the plans.
        graphs: open descriptors by precision, which keep these graphs when another bundle replaces this one.
        inspection: the open descriptor of the inspection graph, whose weights are in the float32 graph; None in a
            bundle of an earlier version.
        plans: with open descriptors too.
        calibration: of its scores, as far as there is one.
    """

    path: Path
    name: str
    manifest: Manifest
    labels: list[ClassLabel]
    hash: str
    graphs: dict[str, int]
    inspection: int | None
    plans: Plans
    calibration: Calibration
    _golden: dict[int, Golden]

    def graph_sha256(self, precision: str) -> str:
        return self.manifest.files[GRAPHS[precision]]

    def same_as(self, other: "Bundle") -> bool:
        """Whether both have the same files, plans too; their calibrations may differ."""
        return (self.hash, _plan_manifests(self.plans)) == (other.hash, _plan_manifests(other.plans))

    def plan_command(self, resolution: int) -> str:
        """The command that builds a plan for `resolution`."""
        path = shlex.quote(str(self.path))
        return f"python export/to_trt.py --variant {self.manifest.variant} --bundle {path} --resolutions {resolution}"

    def calibrate_command(self, options: str) -> str:
        """The command that calibrates the scores with labelled images; it goes into answers, which are UTF-8."""
        path = shlex.quote(str(self.path)).encode(errors="backslashreplace").decode()
        return f"crossvit calibrate DATA --bundle {path} {options}"

    def golden(self, resolution: int) -> Golden:
        """Images of `resolution`, and the logits that PyTorch gave for them."""
        return self._golden[resolution]

    def close(self) -> None:
        for file in (*self.graphs.values(), self.inspection):
            if file is not None:
                os.close(file)
        self.plans.close()

    @property
    def warning(self) -> str | None:
        """The warning that the service logs at start, if the answers mean nothing, or little."""
        weights = self.manifest.weights
        if self.manifest.classes == 1 and self.manifest.activation == SOFTMAX:
            return (
                f"{self.name} HAS ONE CLASS, AND SOFTMAX SCORES: they are 1 for every image. Export it again with "
                "--activation sigmoid"
            )
        if weights.id != UNTRAINED:
            return f"{self.name}: {weights.caution}" if weights.caution else None
        return (
            f"UNTRAINED WEIGHTS: {self.name} has random weights, its answers mean nothing; "
            f"crossvit serve {self.manifest.variant} fetches trained ones"
        )

    @property
    def resolutions(self) -> list[int]:
        return sorted(self.manifest.preprocessing)


def open_bundle(path: Path, name: str | None = None) -> Bundle:
    """Open and check the bundle at `path`, of a model that is called `name`, by default like the folder.

    Raises BadBundle, which says what is wrong and how to mend it.
    """
    try:
        return _open(path, name)
    except BadBundle as err:
        record = read_pull_record(path)
        if record is None:
            raise
        command = shlex.join(["crossvit", "pull", record.source, *record.options])
        raise BadBundle(f"{err} (it was pulled; this makes it again: {command})") from err


def _open(path: Path, name: str | None) -> Bundle:
    try:
        path = Path(os.path.abspath(path))  # noqa: PTH100, a link keeps its own name
    except OSError as err:
        raise BadBundle(f"{path} is in the working directory, which is gone; give an absolute path") from err
    if name is None and not MODEL_NAME.fullmatch(path.name):
        raise BadBundle(f"{path}: the folder's name is the model's, of {MODEL_NAME_RULE}; rename it")
    content = _read_manifest(path)
    manifest = parse_manifest(content, path / MANIFEST)
    labels = parse_labels(read_checked(path, LABELS, manifest), path / LABELS, manifest.classes)
    golden = parse_golden(read_checked(path, GOLDEN, manifest), path / GOLDEN, manifest.preprocessing, manifest.classes)
    files = _open_graphs(path, manifest)
    graphs = {precision: files[name] for precision, name in GRAPHS.items() if name in files}
    sides = {resolution: steps.crop for resolution, steps in manifest.preprocessing.items()}
    plans = open_plans(path, manifest.files[MODEL], sides)
    bundle_hash = f"sha256:{hashlib.sha256(content).hexdigest()}"
    calibration = read_calibration(path, manifest)
    return Bundle(
        path,
        name or path.name,
        manifest,
        labels,
        bundle_hash,
        graphs,
        files.get(INSPECTION),
        plans,
        calibration,
        golden,
    )


def read_checked(bundle: Path, name: str, manifest: Manifest, advice: str = "export the bundle again") -> bytes:
    """The content of the bundle's file `name`. Raises BadBundle, with `advice`, unless its sha256 is the manifest's."""
    try:
        content = (bundle / name).read_bytes()
    except OSError as err:
        raise _not_read(bundle, name, err, advice) from err
    if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
        raise _not_described(bundle, name, advice)
    return content


def _read_manifest(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as err:
        if not isinstance(err, FileNotFoundError | NotADirectoryError):
            raise BadBundle(unreadable(path / MANIFEST, err)) from err
        raise BadBundle(
            f"no bundle at {path} ({MANIFEST}: {err.strerror}); "
            "make one with: python export/to_onnx.py --variant crossvit_9_dagger"
        ) from err


def _open_graphs(path: Path, manifest: Manifest) -> dict[str, int]:
    """Open descriptors of the graphs' files, by their names."""
    graphs: dict[str, int] = {}
    with ExitStack() as opened:
        for name in (*GRAPHS.values(), INSPECTION):
            if name not in manifest.files:
                continue
            try:
                graphs[name] = os.open(path / name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as err:
                raise _not_read(path, name, err) from err
            opened.callback(os.close, graphs[name])
        with ThreadPoolExecutor(len(graphs)) as threads:
            digests = threads.map(_digest, graphs.values())
        for name, digest in zip(graphs, digests, strict=True):
            if digest != manifest.files.get(name):
                raise _not_described(path, name)
        opened.pop_all()
    return graphs


def _digest(file: int) -> str:
    with os.fdopen(file, "rb", closefd=False) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _plan_manifests(plans: Plans) -> object:
    return {resolution: [plan.manifest for plan in fit] for resolution, fit in plans.fit.items()}, plans.unfit


def _not_read(path: Path, name: str, err: OSError, advice: str = "export the bundle again") -> BadBundle:
    missing = isinstance(err, FileNotFoundError)
    return _not_described(path, name, advice) if missing else BadBundle(unreadable(path / name, err))


def _not_described(path: Path, name: str, advice: str = "export the bundle again") -> BadBundle:
    return BadBundle(f"{path / name} is not the file that the manifest describes; {advice}")
