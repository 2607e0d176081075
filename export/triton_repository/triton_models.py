"""Which files of a bundle make a model of Triton, and what Triton is told of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.writer import FORMAT, LABELS, MODEL, read_manifest, sha256
from export.plans.build_spec import PRECISIONS
from export.plans.plan_folder import ENGINES, PASSPORT, PLAN
from export.plans.plan_folder import FORMAT as PASSPORT_FORMAT
from export.triton_repository.pbtxt import Config
from model.spec import SOFTMAX

BATCH_SIZES = (1, 8, 32, 64)  # warmed up where no plan says which
MAX_BATCH = {"gpu": 64, "cpu": 8}
UNTRAINED = "untrained"


class NotServable(Exception):
    """Triton cannot be given what was asked for; the message says what would do."""


@dataclass(frozen=True)
class TritonOptions:
    """What the command line asks for; `precision` as it spells them, `only` are texts in the names of plans."""

    variant: str
    backend: str  # "onnxruntime" or "tensorrt"
    precision: str
    device: str  # "gpu" or "cpu"
    max_batch: int | None
    instances: int
    queue_delay_us: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFile:
    """A file of the bundle, and what it is called in a version's folder."""

    path: Path
    sha256: str
    name: str


@dataclass(frozen=True)
class TritonBundle:
    """A bundle that stands in `folder`, of which only the manifest has been read."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def trained(self) -> bool:
        return bool(self.manifest["weights"]["id"] != UNTRAINED)

    @property
    def resolutions(self) -> list[int]:
        return sorted(map(int, self.manifest["preprocessing"]))

    def steps(self, resolution: int) -> dict[str, int]:
        """`resize` and `crop`, in pixels."""
        steps: dict[str, int] = self.manifest["preprocessing"][str(resolution)]
        return steps

    def labels(self) -> str:
        """One label a line, in index order: what Triton answers with beside score and index."""
        path = self.folder / LABELS
        if sha256(path) != self.manifest["files"][LABELS]:
            raise NotServable(f"{path} is not the file that the manifest names: export the bundle again")
        labels = [entry["label"] for entry in json.loads(path.read_text(encoding="utf-8"))]
        return "".join(" ".join(label.split()) + "\n" for label in labels)


@dataclass(frozen=True)
class PlanFolder:
    """A TensorRT engine in a bundle: its folder, and its passport."""

    folder: Path
    passport: dict[str, Any]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Profile i is for `batch_sizes[i]` images."""
        return tuple(self.passport["batch_sizes"])

    @property
    def least_sizes(self) -> tuple[int, ...]:
        """Profile i takes no fewer images than `least_sizes[i]`."""
        return tuple(self.passport.get("least_sizes", self.batch_sizes))

    @property
    def capability(self) -> str:
        return str(self.passport["compute_capability"])

    def source(self, name: str) -> ModelFile:
        return ModelFile(self.folder / PLAN, self.passport["plan_sha256"], name)


def read_bundle(folder: Path, variant: str) -> TritonBundle:
    """The bundle of `variant` at `folder`; NotServable if it is none."""
    manifest = read_manifest(folder)
    again = f"export it first with python export/to_onnx.py --variant {variant}"
    if manifest is None:
        raise NotServable(f"there is no bundle at {folder}: {again}")
    if manifest.get("format") != FORMAT:
        raise NotServable(f"{folder} has format {manifest.get('format')}, not {FORMAT}: {again}")
    if manifest.get("variant") != variant:
        raise NotServable(f"{folder} is a bundle of {manifest.get('variant')}, not of {variant}")
    return TritonBundle(folder, manifest)


def model_files(
    bundle: TritonBundle, wishes: TritonOptions, resolutions: list[int] | None
) -> list[tuple[Config, list[ModelFile]]]:
    """For each of `resolutions`, or all that the bundle offers, the configuration and the files of its model."""
    for resolution in resolutions or ():
        if resolution not in bundle.resolutions:
            raise NotServable(
                f"{bundle.folder} offers {', '.join(map(str, bundle.resolutions))} and not {resolution}: export it "
                f"again with python export/to_onnx.py --variant {wishes.variant} --resolutions "
                f"{' '.join(map(str, sorted({*bundle.resolutions, resolution})))}"
            )
    model = _with_plans if wishes.backend == "tensorrt" else _with_graph
    return [model(bundle, wishes, resolution) for resolution in sorted(set(resolutions or bundle.resolutions))]


def _with_graph(bundle: TritonBundle, wishes: TritonOptions, resolution: int) -> tuple[Config, list[ModelFile]]:
    name = MODEL if wishes.precision == "fp32" else f"model.{wishes.precision}.onnx"
    if wishes.precision != "fp32" and name not in bundle.manifest["files"]:
        raise NotServable(
            f"{bundle.folder} has no {wishes.precision} graph: export it first with "
            f"python export/to_onnx.py --variant {wishes.variant} --precision {wishes.precision}"
        )
    limit = wishes.max_batch or MAX_BATCH[wishes.device]
    sizes = (*(size for size in BATCH_SIZES if size < limit), limit)
    config = _config(bundle, wishes, resolution, max_batch=limit, batch_sizes=sizes)
    return config, [ModelFile(bundle.folder / name, bundle.manifest["files"][name], "model.onnx")]


def _with_plans(bundle: TritonBundle, wishes: TritonOptions, resolution: int) -> tuple[Config, list[ModelFile]]:
    """Triton does not pad, so it may form batches only if every size has a profile."""
    plans = _fitting(bundle, wishes, resolution)
    every, name = plans[0].batch_sizes, plans[0].folder.name
    limit = wishes.max_batch or every[-1]
    if limit not in every:
        raise NotServable(
            f"--max-batch {limit} is none of the batch sizes {', '.join(map(str, every))} of {name}: choose one of "
            "them, or build it anew with --batch-sizes"
        )
    sizes = tuple(size for size in every if size <= limit)
    least = plans[0].least_sizes[: len(sizes)]
    files = {plan.capability: f"model_{plan.capability}.plan" for plan in plans} if len(plans) > 1 else {}
    config = _config(
        bundle,
        wishes,
        resolution,
        max_batch=limit,
        batch_sizes=sizes,
        dynamic=least == (1, *(size + 1 for size in sizes[:-1])),
        least_sizes=least,
        plans=files,
        built_for={
            "tensorrt": plans[0].passport["tensorrt"],
            "gpu": ", ".join(plan.passport["gpu"] for plan in plans),
        },
    )
    return config, [plan.source(files.get(plan.capability, "model.plan")) for plan in plans]


def _fitting(bundle: TritonBundle, wishes: TritonOptions, resolution: int) -> list[PlanFolder]:
    """The plans that fit, one for each compute capability; NotServable if there is none, or more than can be told."""
    asked = {
        "resolution": resolution,
        "side": bundle.steps(resolution)["crop"],
        "precision": PRECISIONS[wishes.precision],
        "graph_sha256": bundle.manifest["files"][MODEL],
    }
    plans = [
        plan
        for plan in _plans(bundle)
        if all(plan.passport[key] == value for key, value in asked.items())
        and all(part in plan.folder.name for part in wishes.only)
    ]
    if not plans:
        named = f" whose name has {' and '.join(wishes.only)}" if wishes.only else ""
        raise NotServable(
            f"{bundle.folder} has no {wishes.precision} plan of its graph for {resolution}{named}: build it with "
            f"python export/to_trt.py --variant {wishes.variant} --resolutions {resolution} "
            f"--precision {wishes.precision}"
        )
    alike = {(plan.passport["tensorrt"], plan.batch_sizes, plan.least_sizes) for plan in plans}
    if len(alike) > 1 or len({plan.capability for plan in plans}) < len(plans):
        raise NotServable(
            "Triton takes one plan for each compute capability, all of one TensorRT and for the same batch sizes: "
            f"choose with --only TEXT among {', '.join(plan.folder.name for plan in plans)}"
        )
    return plans


def _plans(bundle: TritonBundle) -> Iterator[PlanFolder]:
    for path in sorted(bundle.folder.glob(f"{ENGINES}/[!.]*/{PASSPORT}")):
        try:
            passport = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError:
            passport = None
        if not isinstance(passport, dict) or "format" not in passport:
            raise NotServable(f"{path} is no passport of a plan: remove {path.parent}, or build it again")
        if passport["format"] == PASSPORT_FORMAT:
            yield PlanFolder(path.parent, passport)


def _config(
    bundle: TritonBundle, wishes: TritonOptions, resolution: int, built_for: dict[str, str] | None = None, **more: Any
) -> Config:
    steps = bundle.steps(resolution)
    notes = {
        "weights": bundle.manifest["weights"]["id"],
        "precision": wishes.precision,
        "activation": bundle.manifest.get("activation", SOFTMAX),
        "resize": str(steps["resize"]),
        "crop": str(steps["crop"]),
    }
    return Config(
        name=f"{wishes.variant}_{resolution}",
        backend=wishes.backend,
        side=steps["crop"],
        classes=bundle.manifest["classes"],
        delay_us=wishes.queue_delay_us,
        device=wishes.device,
        instances=wishes.instances,
        notes=notes | (built_for or {}),
        **more,
    )
