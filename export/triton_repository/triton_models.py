"""The files of a bundle that make a model of Triton, and the model's configuration."""

from dataclasses import dataclass
from pathlib import Path

from bundle.bundle_errors import ExplainedError
from bundle.class_labels import parse_labels
from bundle.file_names import GRAPHS, LABELS, MODEL, PLAN
from bundle.manifest import Manifest
from bundle.plan_manifest import PlanManifest
from bundle.plans import read_plan_manifests
from export.inputs.existing_bundle import read_existing_file, read_existing_manifest
from export.plans.build_spec import PRECISION_OPTIONS
from export.triton_repository.pbtxt import Config
from model.spec import UNTRAINED, Preprocessing

GRAPH_WARM_UP_SIZES = (1, 8, 32, 64)  # a plan has its own batch sizes
GRAPH_MAX_BATCH = {"gpu": 64, "cpu": 8}


class NotServable(ExplainedError):
    """Triton cannot serve what was requested; the message says how to mend it."""


@dataclass(frozen=True)
class TritonOptions:
    """The request of the command line.

    Attributes:
        variant: the network.
        backend: "onnxruntime" or "tensorrt".
        precision: one of PRECISION_OPTIONS.
        device: "gpu" or "cpu".
        max_batch: the largest batch; None is the backend's.
        instances: of each model, on each GPU.
        queue_delay_us: how long a request may wait for others.
        only: texts that the names of plans must have.
    """

    variant: str
    backend: str
    precision: str
    device: str
    max_batch: int | None
    instances: int
    queue_delay_us: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFile:
    """A file of the bundle, and its name in a version's folder."""

    path: Path
    sha256: str
    name: str


@dataclass(frozen=True)
class TritonBundle:
    """A bundle in `folder`, of which only the manifest has been read."""

    folder: Path
    manifest: Manifest

    @property
    def trained(self) -> bool:
        return self.manifest.weights.id != UNTRAINED

    @property
    def resolutions(self) -> list[int]:
        return sorted(self.manifest.preprocessing)

    def steps(self, resolution: int) -> Preprocessing:
        return self.manifest.preprocessing[resolution]

    def labels(self) -> str:
        """The text of Triton's label file: one label a line, in index order, without control characters."""
        content = read_existing_file(self.folder, LABELS, self.manifest)
        labels = parse_labels(content, self.folder / LABELS, self.manifest.classes)
        # Line breaks would shift the labels behind them; the reader has replaced control characters by this one.
        texts = (label.label.replace("\N{REPLACEMENT CHARACTER}", " ") for label in labels)
        return "".join(" ".join(text.split()) + "\n" for text in texts)


@dataclass(frozen=True)
class PlanFolder:
    """The folder of a plan in a bundle, and the plan's manifest."""

    folder: Path
    manifest: PlanManifest

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Profile i is for `batch_sizes[i]` images."""
        return self.manifest.batch_sizes

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """Profile i takes `least_sizes[i]` images or more."""
        return self.manifest.least_sizes or self.manifest.batch_sizes

    @property
    def capability(self) -> str:
        return self.manifest.compute_capability

    def source(self, name: str) -> ModelFile:
        return ModelFile(self.folder / PLAN, self.manifest.plan_sha256, name)


def read_triton_bundle(folder: Path, variant: str) -> TritonBundle:
    """The bundle of `variant` at `folder`. Raises BadBundle if that is damaged, or another variant's."""
    return TritonBundle(folder, read_existing_manifest(folder, variant))


def model_files(
    bundle: TritonBundle, options: TritonOptions, resolutions: list[int] | None
) -> list[tuple[Config, list[ModelFile]]]:
    """For each of `resolutions`, or all that the bundle offers, the configuration and the files of its model."""
    for resolution in resolutions or ():
        if resolution not in bundle.resolutions:
            raise NotServable(
                f"{bundle.folder} offers {', '.join(map(str, bundle.resolutions))} and not {resolution}: export it "
                f"again with python export/to_onnx.py --variant {options.variant} --resolutions "
                f"{' '.join(map(str, sorted({*bundle.resolutions, resolution})))}"
            )
    model = _with_plans if options.backend == "tensorrt" else _with_graph
    return [model(bundle, options, resolution) for resolution in sorted(set(resolutions or bundle.resolutions))]


def _with_graph(bundle: TritonBundle, options: TritonOptions, resolution: int) -> tuple[Config, list[ModelFile]]:
    name = GRAPHS[PRECISION_OPTIONS[options.precision]]
    if name not in bundle.manifest.files:
        raise NotServable(
            f"{bundle.folder} has no {options.precision} graph: export it first with "
            f"python export/to_onnx.py --variant {options.variant} --precision {options.precision}"
        )
    limit = options.max_batch or GRAPH_MAX_BATCH[options.device]
    sizes = (*(size for size in GRAPH_WARM_UP_SIZES if size < limit), limit)
    steps = bundle.steps(resolution)
    config = Config(
        name=f"{options.variant}_{resolution}",
        backend=options.backend,
        side=steps.crop,
        classes=bundle.manifest.classes,
        max_batch=limit,
        batch_sizes=sizes,
        delay_us=options.queue_delay_us,
        device=options.device,
        instances=options.instances,
        notes=_notes(bundle, options, steps),
    )
    return config, [ModelFile(bundle.folder / name, bundle.manifest.files[name], MODEL)]


def _with_plans(bundle: TritonBundle, options: TritonOptions, resolution: int) -> tuple[Config, list[ModelFile]]:
    """Triton does not pad, so it may form batches only if every size has a profile."""
    plans = _fitting(bundle, options, resolution)
    offered, name = plans[0].batch_sizes, plans[0].folder.name
    limit = options.max_batch or offered[-1]
    if limit not in offered:
        raise NotServable(
            f"--max-batch {limit} is not one of the batch sizes {', '.join(map(str, offered))} of {name}: choose one "
            "of them, or build it anew with --batch-sizes"
        )
    sizes = tuple(size for size in offered if size <= limit)
    least = plans[0].least_sizes[: len(sizes)]
    names = {plan.capability: f"model_{plan.capability}.plan" for plan in plans} if len(plans) > 1 else {}
    built_for = {
        "tensorrt": plans[0].manifest.tensorrt,
        "gpu": ", ".join(plan.manifest.gpu for plan in plans),
    }
    steps = bundle.steps(resolution)
    config = Config(
        name=f"{options.variant}_{resolution}",
        backend=options.backend,
        side=steps.crop,
        classes=bundle.manifest.classes,
        max_batch=limit,
        batch_sizes=sizes,
        dynamic=least == (1, *(size + 1 for size in sizes[:-1])),
        delay_us=options.queue_delay_us,
        device=options.device,
        instances=options.instances,
        least_sizes=least,
        plans=names,
        notes=_notes(bundle, options, steps) | built_for,
    )
    return config, [plan.source(names.get(plan.capability, "model.plan")) for plan in plans]


def _fitting(bundle: TritonBundle, options: TritonOptions, resolution: int) -> list[PlanFolder]:
    """The plans that fit, one for each compute capability. Raises NotServable for none, and if several are possible."""
    plans = [
        plan
        for plan in _plans(bundle)
        if _fits(plan.manifest, bundle, options, resolution) and all(part in plan.folder.name for part in options.only)
    ]
    if not plans:
        named = f" whose name has {' and '.join(options.only)}" if options.only else ""
        raise NotServable(
            f"{bundle.folder} has no {options.precision} plan of its graph for {resolution}{named}: build it with "
            f"python export/to_trt.py --variant {options.variant} --resolutions {resolution} "
            f"--precision {options.precision}"
        )
    alike = {(plan.manifest.tensorrt, plan.batch_sizes, plan.least_sizes) for plan in plans}
    if len(alike) > 1 or len({plan.capability for plan in plans}) < len(plans):
        raise NotServable(
            "Triton takes one plan for each compute capability, all of one TensorRT and for the same batch sizes: "
            f"choose with --only TEXT among {', '.join(plan.folder.name for plan in plans)}"
        )
    return plans


def _fits(plan: PlanManifest, bundle: TritonBundle, options: TritonOptions, resolution: int) -> bool:
    return (
        plan.resolution == resolution
        and plan.side == bundle.steps(resolution).crop
        and plan.precision == PRECISION_OPTIONS[options.precision]
        and plan.graph_sha256 == bundle.manifest.files[MODEL]
    )


def _plans(bundle: TritonBundle) -> list[PlanFolder]:
    return [PlanFolder(folder, manifest) for folder, manifest in read_plan_manifests(bundle.folder).items()]


def _notes(bundle: TritonBundle, options: TritonOptions, steps: Preprocessing) -> dict[str, str]:
    return {
        "weights": bundle.manifest.weights.id,
        "precision": options.precision,
        "activation": bundle.manifest.activation,
        "resize": str(steps.resize),
        "crop": str(steps.crop),
    }
