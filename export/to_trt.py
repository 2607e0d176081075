"""A bundle's engines for the GPU of this machine: `python export/to_trt.py --variant crossvit_18_dagger`.

Builds a TensorRT engine for each resolution, proves it against the bundle's graph in ONNX Runtime on real photographs,
and only then puts it into the bundle; docs/bundle.md says what is in it. Where no bundle stands yet, one is exported.
"""

import argparse
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import onnx_ir

from bundle.writer import MANIFEST, NotABundle
from export import arguments
from export.measurement.agreement import Disagreement, agreement
from export.measurement.photos import NoPhotos, views
from export.measurement.precision import run_logits
from export.plans import timing_cache
from export.plans.build_spec import PRECISIONS, BuildSpec, Device, PlanBuilder, Unable, engine_name
from export.plans.plan_folder import ENGINES, check_place, put_in_place, stands
from export.plans.progress import Bars, interruptibly
from export.plans.source import OPERATOR, PRODUCTS, PlanSource, read_source
from model.spec import branch_sides

VIEWS = 200  # of which two may be answered otherwise: in some the first two classes lie closer than 16 bits can tell
BATCH_SIZES = (1, 8, 32, 64)
MAX_BATCH = 1024  # of the graph
_KERNELS = 64 << 20  # what a plan may have beside its weights, generously
_UNITS = {"": 30, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True)
class BuildOptions:
    """What is asked for. `resolutions` None: all that the bundle offers."""

    variant: str
    bundle: Path
    resolutions: tuple[int, ...] | None = None
    precision: str = "fp16"
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    joined_profiles: bool = False
    attention: str = PRODUCTS
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    optimization_level: int = 3
    version_compatible: bool = False
    images: Path | None = None
    if_changed: bool = False

    def order(self, source: PlanSource, resolution: int, timing_cache: bytes = b"") -> BuildSpec:
        return BuildSpec(
            precision=self.precision,
            side=source.preprocessing[resolution].crop,
            batch_sizes=self.batch_sizes,
            joined=self.joined_profiles,
            workspace_bytes=self.workspace_bytes,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            timing_cache=timing_cache,
        )


def tensorrt() -> PlanBuilder:
    """The GPU of this machine. Unable if TensorRT is not here, or another one than this was written for."""
    try:
        from export.plans.builder import TensorRTBuilder
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] not in ("tensorrt", "tensorrt_bindings", "cuda"):
            raise
        package = "cuda-bindings" if err.name.startswith("cuda") else "TensorRT"
        raise Unable(f"{package} is not installed: pip install -e '.[export,gpu]' brings what engines need") from err
    except (ImportError, OSError) as err:
        raise Unable(f"TensorRT is installed but does not load: {err}; pip install --force-reinstall tensorrt") from err
    return TensorRTBuilder()


def main(argv: list[str] | None = None, find: Callable[[], PlanBuilder] = tensorrt) -> int:
    """`find` gives the GPU to build for, or raises Unable."""
    args = _arguments(argv)
    task = BuildOptions(
        variant=args.variant,
        bundle=args.bundle or Path("artifacts") / args.variant,
        resolutions=args.resolutions and tuple(sorted(set(args.resolutions))),
        precision=PRECISIONS[args.precision],
        batch_sizes=tuple(sorted(set(args.batch_sizes))),
        joined_profiles=args.joined_profiles,
        attention=args.attention,
        workspace_bytes=args.workspace,
        timing_cache=args.timing_cache,
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        images=args.images,
        if_changed=args.if_changed,
    )
    try:
        (preview if args.dry_run else build)(task, find)
    except (Unable, NoPhotos, NotABundle) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"; make room at {task.bundle}, and start again" if full else ""
        print(f"error: {err}{advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the bundle has what was put in place before, and else is as it was", file=sys.stderr)
        return 130
    return 0


def build(task: BuildOptions, find: Callable[[], PlanBuilder]) -> None:
    """Build, prove and install an engine for each resolution. What fails leaves the bundle as it is by then."""
    gpu = find()
    device = gpu.device()
    if (task.workspace_bytes or 0) > device.memory_bytes:
        raise Unable(
            f"--workspace is more than the {device.memory_bytes / 2**30:.1f} GiB of the {device.gpu}; ask for less"
        )
    _say(f"TensorRT {device.tensorrt}, {device.gpu} ({device.compute_capability}), driver {device.driver}")
    if not (task.bundle / MANIFEST).exists():
        _check_room(task.bundle, 0)
        _export_bundle(task)
    source = read_source(task.bundle, task.variant)
    resolutions = _resolutions(task, source)
    _check_room(source.path, len(resolutions) * (len(source.graph) + _KERNELS))
    if source.untrained:
        _say("WARNING: UNTRAINED weights: the answers of these engines will mean nothing")
    for number, resolution in enumerate(resolutions):
        try:
            _build_one(task, source, resolution, gpu, device)
        except BaseException:
            if number:
                stay = " and ".join(map(str, resolutions[:number]))
                print(f"the engines for {stay} are in place, and stay", file=sys.stderr)
            raise
    _say("a service that runs takes them at its next start, at SIGHUP, or at POST /admin/reload")


def preview(task: BuildOptions, find: Callable[[], PlanBuilder]) -> None:
    """Say what `build` would do, and whether it could. Writes nothing."""
    device = None
    try:
        device = find().device()
        _say(f"TensorRT {device.tensorrt}")
        _say(f"{device.gpu} ({device.compute_capability}), driver {device.driver}, CUDA up to {device.cuda}")
        _say(f"timing cache: {task.timing_cache or timing_cache.default_file(device)}")
    except Unable as err:
        _say(f"nothing can be built here: {err}")
    if not (task.bundle / MANIFEST).exists():
        _say(f"no bundle at {task.bundle}: export/to_onnx.py --variant {task.variant} would make it first")
        return
    source = read_source(task.bundle, task.variant)
    _say(f"{source.path}: {task.variant}, model.onnx sha256 {source.graph_sha256}")
    gpu, version = (device.gpu, device.tensorrt) if device else ("GPU", "VERSION")
    for resolution in _resolutions(task, source):
        nodes = len(source.at(resolution, task.precision, task.attention).graph)
        order = task.order(source, resolution)
        small, large = branch_sides(order.side)
        sides = f"images of side {order.side}, branches of {small} and {large}"
        _say(f"{resolution}: {sides}; {order.precision}, {nodes} nodes")
        _say(f"  profiles: {', '.join(_profiles(order))}")
        _say(f"  folder: {source.path / ENGINES / engine_name(resolution, order.precision, gpu, version)}")
    _say("dry run: nothing was built or written")


def _build_one(task: BuildOptions, source: PlanSource, resolution: int, gpu: PlanBuilder, device: Device) -> None:
    cache = task.timing_cache or timing_cache.default_file(device)
    order = task.order(source, resolution, _cached(cache))
    wanted = {
        "resolution": resolution,
        "side": order.side,
        "precision": order.precision,
        "batch_sizes": list(order.batch_sizes),
        "least_sizes": list(order.least_sizes),
        "attention": task.attention,
        "graph_sha256": source.graph_sha256,
        **device.described(),
        "version_compatible": order.version_compatible,
        "optimization_level": order.optimization_level,
    }
    check_place(source.path, wanted)  # now: what takes minutes must not fail at the end for this
    if task.if_changed and stands(source.path, wanted):
        _say(f"{resolution}: the engine is up to date")
        return
    graph = onnx_ir.to_proto(source.at(resolution, task.precision, task.attention)).SerializeToString()
    _say(f"{resolution}: building in {order.precision} for {', '.join(map(str, order.batch_sizes))} images …")
    started = time.monotonic()
    with Bars() as bars:
        built = interruptibly(lambda: gpu.build(graph, order, bars), bars.stop)
    seconds = time.monotonic() - started
    for note in built.notes:
        _say(f"  TensorRT: {note}")
    _keep(cache, built.timing_cache)
    proof = _prove(task, source, resolution, gpu, order, built.plan)
    source.check_unchanged()
    passport = wanted | {
        "workspace_bytes": built.workspace_bytes,
        "proof": proof,
        "built": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "build_seconds": round(seconds, 1),
    }
    place = put_in_place(source.path, passport, built.plan)
    _say(f"  {place}: {len(built.plan) / 2**20:.0f} MiB, proven; built in {seconds:.0f} s")


def _prove(
    task: BuildOptions, source: PlanSource, resolution: int, gpu: PlanBuilder, order: BuildSpec, plan: bytes
) -> dict[str, float]:
    """How the worst profile agrees with the graph in float32. Unable under 99 %, or if a logit is no number."""
    _say(f"  comparing every profile with ONNX Runtime on {VIEWS} views …")
    images = views(source.preprocessing[resolution], VIEWS, task.images)
    expected = run_logits(source.graph, images)
    found = []
    for batch, answers in zip(order.batch_sizes, gpu.run(plan, order, images), strict=True):
        proof = agreement(expected, answers)
        _say(
            f"  batch {batch}: the same class for {proof.top1:.1%} of {proof.images} images; "
            f"logits, of up to {proof.scale:.2f}, differ by at most {proof.worst:.2g}"
        )
        try:
            proof.check(f"the engine for {resolution} in {order.precision}, at batch {batch},")
        except Disagreement as err:
            others = " or ".join(name for name, inside in PRECISIONS.items() if inside != order.precision)
            why = " (the weights are untrained, and their classes hardly differ)" if source.untrained else ""
            raise Unable(f"{err}{why}; it is not put in place. Try --precision {others}") from err
        found.append(proof)
    return {
        "images": len(images),
        "top1_agreement": min(proof.top1 for proof in found),
        "worst_difference": max(proof.worst for proof in found),
        "scale": found[0].scale,
    }


def _cached(file: Path) -> bytes:
    try:
        return timing_cache.read_timings(file)
    except OSError as err:
        _say(f"note: the timing cache {file} cannot be read ({err.strerror}); building without it")
        return b""


def _keep(file: Path, content: bytes) -> None:
    try:
        timing_cache.write_timings(file, content)
    except OSError as err:
        _say(f"note: the timing cache {file} cannot be written ({err.strerror}); the next build will measure anew")


def _resolutions(task: BuildOptions, source: PlanSource) -> tuple[int, ...]:
    offered = tuple(sorted(source.preprocessing))
    for resolution in task.resolutions or ():
        if resolution not in offered:
            raise Unable(f"{source.path} does not offer {resolution}, but {', '.join(map(str, offered))}")
    return task.resolutions or offered


def _check_room(bundle: Path, needed: int) -> None:
    """Unable if the engines could not be written when they are done, which is late."""
    place = next(folder for folder in (bundle / ENGINES, bundle, *bundle.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Unable(
            f"the engines may take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free at {place}; "
            "make room, or build fewer --resolutions at a time"
        )
    if not os.access(place, os.W_OK):
        raise Unable(f"{place} cannot be written to; run this as its owner, or choose another --bundle")


def _export_bundle(task: BuildOptions) -> None:
    _say(f"no bundle at {task.bundle}; making it first, as export/to_onnx.py --variant {task.variant} does")
    try:
        from export.to_onnx import main as to_onnx
    except ModuleNotFoundError as err:
        raise Unable(
            f"no bundle is at {task.bundle}, and without {err.name} none can be made here: pip install -e '.[export]', "
            "or copy one here that was made elsewhere"
        ) from err
    code = to_onnx(["--variant", task.variant, "--out", str(task.bundle)])
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        raise Unable("without a bundle there is nothing to build engines from")


def _profiles(order: BuildSpec) -> Iterator[str]:
    for least, size in zip(order.least_sizes, order.batch_sizes, strict=True):
        batch = str(size) if least == size else f"{least} to {size}"
        yield f"[{batch}, {order.side}, {order.side}, 3]"


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", required=True, type=arguments.variant, metavar="NAME", help=arguments.VARIANT_HELP)
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="where it is, or will be (artifacts/VARIANT)")
    parser.add_argument(
        "--resolutions",
        type=arguments.offered_resolution,
        nargs="+",
        metavar="N",
        help="which of the bundle's to build for (all)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="of the engines (fp16)")
    parser.add_argument(
        "--batch-sizes",
        type=_batch,
        nargs="+",
        default=BATCH_SIZES,
        metavar="N",
        help="an optimisation profile for exactly so many images (1 8 32 64)",
    )
    parser.add_argument(
        "--joined-profiles",
        action="store_true",
        help="profiles that also take the sizes between, for servers that do not pad, such as Triton",
    )
    parser.add_argument(
        "--attention",
        choices=(PRODUCTS, OPERATOR),
        default=PRODUCTS,
        help="as products around a softmax, or as ONNX's operator, which TensorRT has from 10.14 on (products)",
    )
    parser.add_argument(
        "--workspace",
        type=_bytes,
        metavar="GIB",
        help="most GPU memory for a kernel's scratch, such as 4 or 512MiB (all)",
    )
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="what TensorRT measured (a file under ~/.cache/crossvit)"
    )
    parser.add_argument(
        "--optimization-level", type=int, choices=range(6), default=3, help="how long to look for fast kernels (3)"
    )
    parser.add_argument(
        "--version-compatible", action="store_true", help="plans that newer TensorRT of the same major version can read"
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="photographs for the proof (those shipped)")
    parser.add_argument("--if-changed", action="store_true", help="leave engines that were built from and for the same")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be built; needs neither GPU nor TensorRT"
    )
    return parser.parse_args(argv)


def _batch(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_BATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images from 1 to {MAX_BATCH}")
    return int(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:ib|b)?", text.strip().lower())
    size = int(float(match[1]) * (1 << _UNITS[match[2]])) if match else 0
    if size == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 4 (GiB), 4GiB or 512MiB")
    return size


if __name__ == "__main__":
    sys.exit(main())
