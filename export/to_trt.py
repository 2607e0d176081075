"""A bundle's engines for the GPU of this machine: `python export/to_trt.py --variant crossvit_18_dagger`.

Builds a TensorRT engine for each resolution, compares it with the bundle's graph in ONNX Runtime on real photographs,
and only then puts it into the bundle, as docs/bundle.md describes. Where there is no bundle yet, it is exported first.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import onnx_ir
import typer
from pydantic import ValidationError

from bundle.agreement import Agreement
from bundle.bundle_errors import ExplainedError, first_error
from bundle.file_names import ENGINES, MANIFEST
from bundle.installation import install_command
from bundle.plan_manifest import PLAN_FORMAT, PlanManifest, PlanRequest
from bundle.precisions import FP16, PlanPrecision
from export.inputs import arguments
from export.measurement.comparison import Disagreement, compare
from export.measurement.onnx_sessions import in_batches, onnxruntime_session
from export.measurement.photos import NoPhotos, measuring_set, spread_out, views
from export.plans import timing_cache
from export.plans.build_spec import PRECISION_OPTIONS, BuildSpec, Device, PlanBuilder, Unable, engine_name
from export.plans.plan_folder import has_plan, plan_place, write_plan
from export.plans.plan_source import OPERATOR, PRODUCTS, PlanSource, read_source
from export.plans.progress import Bars, interruptibly
from export.pull import main as pull
from model.command_line import failures, new_app, run_command, spread
from model.spec import branch_sides

PROOF_VIEWS = 200
DEFAULT_BATCH_SIZES = (1, 8, 32, 64)
DEFAULT_RESOLUTION = 0  # stands for the bundle's default
MAX_BATCH = 1024  # of the graph
_PLAN_OVERHEAD_BYTES = 64 << 20  # a generous bound on what a plan has beside its weights
_UNIT_SHIFTS = {"": 30, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True)
class BuildOptions:
    """The request of the command line.

    Attributes:
        variant: the network.
        bundle: its folder.
        resolutions: to build for, also DEFAULT_RESOLUTION; None is all that the bundle offers.
        precision: of the engines.
        batch_sizes: an optimisation profile for each.
        joined_profiles: profiles also take the sizes between.
        attention: PRODUCTS, or OPERATOR.
        workspace_bytes: the most GPU memory for a kernel's scratch; None is all.
        timing_cache: the file; None is one under ~/.cache.
        optimization_level: TensorRT's builder_optimization_level.
        version_compatible: later TensorRT of the same major version can read the plans.
        images: the folder of photographs to compare on; None is those shipped.
        least_agreement: the share of photographs for which engines must have float32's best class; None is the usual
            rule.
        if_changed: whether engines that fit the request stay.
    """

    variant: str
    bundle: Path
    resolutions: tuple[int, ...] | None = None
    precision: PlanPrecision = FP16
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    joined_profiles: bool = False
    attention: str = PRODUCTS
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    optimization_level: int = 3
    version_compatible: bool = False
    images: Path | None = None
    least_agreement: float | None = None
    if_changed: bool = False

    def spec(self, source: PlanSource, resolution: int, timing_cache: bytes = b"") -> BuildSpec:
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
    """The GPU of this machine. Raises Unable without TensorRT, or with a version that this is not written for."""
    try:
        from export.plans.builder import TensorRTBuilder
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] not in ("tensorrt", "tensorrt_bindings", "cuda"):
            raise
        package = "cuda-bindings" if err.name.startswith("cuda") else "TensorRT"
        raise Unable(f"{package} is not installed: {install_command('gpu')} installs what engines need") from err
    except (ImportError, OSError) as err:
        raise Unable(f"TensorRT is installed but does not load: {err}; pip install --force-reinstall tensorrt") from err
    return TensorRTBuilder()


def _resolution(text: str) -> int:
    return DEFAULT_RESOLUTION if text == "default" else arguments.offered_resolution(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:ib|b)?", text.strip().lower())
    size = int(float(match[1]) * (1 << _UNIT_SHIFTS[match[2]])) if match else 0
    if size == 0:
        raise typer.BadParameter(f"{text!r} is not a size, such as 4 (GiB), 4GiB or 512MiB")
    return size


_app = new_app()


@_app.command(help=__doc__)
def _from_options(
    context: typer.Context,
    variant: arguments.VariantOption,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FOLDER", readable=False, help="the bundle's folder (artifacts/VARIANT)")
    ] = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            parser=_resolution,
            metavar="N ...",
            help="resolutions of the bundle to build for, or default, the one that it serves by default (all)",
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            parser=arguments.choice(PRECISION_OPTIONS), metavar="|".join(PRECISION_OPTIONS), help="of the engines"
        ),
    ] = "fp16",
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=MAX_BATCH,
            metavar="N ...",
            help="numbers of images, each with its own optimisation profile (1 8 32 64)",
        ),
    ] = None,
    joined_profiles: Annotated[
        bool,
        typer.Option(
            "--joined-profiles",
            help="profiles also take the sizes between, for servers that do not pad, such as Triton",
        ),
    ] = False,
    attention: Annotated[
        str,
        typer.Option(
            parser=arguments.choice((PRODUCTS, OPERATOR)),
            metavar=f"{PRODUCTS}|{OPERATOR}",
            help="products around a softmax, or ONNX's operator, which TensorRT has from 10.14 on",
        ),
    ] = PRODUCTS,
    workspace: Annotated[
        int | None,
        typer.Option(
            parser=_size, metavar="GIB", help="most GPU memory for a kernel's scratch, such as 4 or 512MiB (all)"
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", readable=False, help="TensorRT's measurements of kernels (a file under ~/.cache/crossvit)"
        ),
    ] = None,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, metavar="0..5", help="higher searches longer for fast kernels")
    ] = 3,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="newer TensorRT of the same major version can read the plans"),
    ] = False,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", readable=False, help="photographs to compare on (those shipped)")
    ] = None,
    least_agreement: Annotated[float | None, arguments.LEAST_AGREEMENT] = None,
    if_changed: Annotated[
        bool,
        typer.Option("--if-changed", help="keep engines that were built from the same graph with the same options"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be built; needs neither GPU nor TensorRT")
    ] = False,
) -> None:
    options = BuildOptions(
        variant=variant,
        bundle=bundle or Path("artifacts") / variant,
        resolutions=tuple(resolutions) if resolutions else None,
        precision=PRECISION_OPTIONS[precision],
        batch_sizes=tuple(sorted(set(batch_sizes or DEFAULT_BATCH_SIZES))),
        joined_profiles=joined_profiles,
        attention=attention,
        workspace_bytes=workspace,
        timing_cache=timing_cache,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        images=images,
        least_agreement=least_agreement,
        if_changed=if_changed,
    )
    what_stays = "the bundle keeps the engines that are complete, and nothing else changed"
    with failures((ExplainedError, NoPhotos, OSError), interrupted=lambda: what_stays):
        try:
            (preview if dry_run else build)(options, context.obj)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unable(f"{err}; make room at {options.bundle}, and start again") from err
            raise


def main(argv: Sequence[str] | None = None, find: Callable[[], PlanBuilder] = tensorrt) -> int:
    """Run the command; returns its exit code. `find` gives the GPU to build for, or raises Unable."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(_app, spread(given, "--resolutions", "--batch-sizes"), obj=find)


def build(options: BuildOptions, find: Callable[[], PlanBuilder]) -> None:
    """Build, compare and install an engine for each resolution. A failure leaves those before it in the bundle."""
    gpu = find()
    device = gpu.device()
    if (options.workspace_bytes or 0) > device.memory_bytes:
        raise Unable(
            f"--workspace is more than the {device.memory_bytes / 2**30:.1f} GiB of the {device.gpu}; ask for less"
        )
    _say(f"TensorRT {device.tensorrt}, {device.gpu} ({device.compute_capability}), driver {device.driver}")
    if not (options.bundle / MANIFEST).exists():
        _check_room(options.bundle, 0)
        _pull_bundle(options)
    source = read_source(options.bundle, options.variant)
    resolutions = _resolutions(options, source)
    photos = spread_out(measuring_set(options.images).files, PROOF_VIEWS)  # before minutes are spent
    _check_room(source.path, len(resolutions) * (len(source.graph) + _PLAN_OVERHEAD_BYTES))
    if source.untrained:
        _say("WARNING: UNTRAINED weights: the answers of these engines will mean nothing")
    for number, resolution in enumerate(resolutions):
        try:
            _build_one(options, source, photos, resolution, gpu, device)
        except BaseException:
            if number:
                complete = " and ".join(map(str, resolutions[:number]))
                print(f"the engines for {complete} are in place, and stay", file=sys.stderr)
            raise
    _say("a running service takes them at its next start, at SIGHUP, or at POST /admin/reload")


def preview(options: BuildOptions, find: Callable[[], PlanBuilder]) -> None:
    """Print what `build` would do, and whether it could. Writes nothing."""
    device = None
    try:
        device = find().device()
        _say(f"TensorRT {device.tensorrt}")
        _say(f"{device.gpu} ({device.compute_capability}), driver {device.driver}, CUDA up to {device.cuda}")
        _say(f"timing cache: {options.timing_cache or timing_cache.default_file(device)}")
    except Unable as err:
        _say(f"nothing can be built here: {err}")
    if not (options.bundle / MANIFEST).exists():
        _say(f"no bundle at {options.bundle}: crossvit pull {options.variant} would make it first")
        return
    source = read_source(options.bundle, options.variant)
    _say(f"{source.path}: {options.variant}, model.onnx sha256 {source.graph_sha256}")
    gpu, version = (device.gpu, device.tensorrt) if device else ("GPU", "VERSION")
    for resolution in _resolutions(options, source):
        nodes = len(source.at(resolution, options.precision, options.attention).graph)
        spec = options.spec(source, resolution)
        small, large = branch_sides(spec.side)
        sides = f"images of side {spec.side}, branches of {small} and {large}"
        _say(f"{resolution}: {sides}; {spec.precision}, {nodes} nodes")
        _say(f"  profiles: {', '.join(_profiles(spec))}")
        _say(f"  folder: {source.path / ENGINES / engine_name(resolution, spec.precision, gpu, version)}")
    _say("dry run: nothing was built or written")


def _build_one(
    options: BuildOptions,
    source: PlanSource,
    photos: Sequence[Path],
    resolution: int,
    gpu: PlanBuilder,
    device: Device,
) -> None:
    cache = options.timing_cache or timing_cache.default_file(device)
    spec = options.spec(source, resolution, _read_timings(cache))
    request = _request(options, source, resolution, spec, device)
    plan_place(source.path, request)  # now: a build of minutes must not fail at its end for this
    if options.if_changed and has_plan(source.path, request):
        _say(f"{resolution}: the engine is up to date")
        return
    graph = onnx_ir.to_proto(source.at(resolution, options.precision, options.attention)).SerializeToString()
    _say(f"{resolution}: building in {spec.precision} for {', '.join(map(str, spec.batch_sizes))} images …")
    started = time.monotonic()
    with Bars() as bars:
        built = interruptibly(lambda: gpu.build(graph, spec, bars), bars.stop)
    seconds = time.monotonic() - started
    for note in built.notes:
        _say(f"  TensorRT: {note}")
    _write_timings(cache, built.timing_cache)
    proof = _compare(options, source, photos, resolution, gpu, spec, built.plan)
    source.check_unchanged()
    manifest = PlanManifest(
        **request.model_dump(),
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        workspace_bytes=built.workspace_bytes,
        proof=proof,
        built=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        build_seconds=round(seconds, 1),
    )
    place = write_plan(source.path, manifest, built.plan)
    _say(f"  {place}: {len(built.plan) / 2**20:.0f} MiB, agrees with the graph; built in {seconds:.0f} s")


def _request(
    options: BuildOptions, source: PlanSource, resolution: int, spec: BuildSpec, device: Device
) -> PlanRequest:
    """Raises Unable if no service could read a plan of this GPU and TensorRT."""
    try:
        return PlanRequest(
            format=PLAN_FORMAT,
            resolution=resolution,
            side=spec.side,
            precision=spec.precision,
            batch_sizes=spec.batch_sizes,
            least_sizes=spec.least_sizes,
            attention=options.attention,
            graph_sha256=source.graph_sha256,
            tensorrt=device.tensorrt,
            gpu=device.gpu,
            compute_capability=device.compute_capability,
            driver=device.driver,
            cuda=device.cuda,
            version_compatible=spec.version_compatible,
            optimization_level=spec.optimization_level,
        )
    except ValidationError as err:
        raise Unable(f"a plan that is built here could not be served: {first_error(err)}") from err


def _compare(
    options: BuildOptions,
    source: PlanSource,
    photos: Sequence[Path],
    resolution: int,
    gpu: PlanBuilder,
    spec: BuildSpec,
    plan: bytes,
) -> list[Agreement]:
    """How each profile agrees with the graph in float32. Raises Unable if one does not."""
    _say(f"  comparing every profile with ONNX Runtime on {PROOF_VIEWS} views of photographs …")
    images = views(source.preprocessing[resolution], PROOF_VIEWS, photos)
    expected = in_batches(onnxruntime_session(source.graph), images)
    proof = []
    for batch, answers in zip(spec.batch_sizes, gpu.run(plan, spec, images), strict=True):
        try:
            found = compare(expected, answers, source.manifest.activation, len(photos))
        except Disagreement as err:
            raise _not_taken(options, resolution, batch, str(err)) from err
        _say(f"  batch {batch}: {found.describe(options.least_agreement)}")
        if fault := found.fault(options.least_agreement):
            raise _not_taken(options, resolution, batch, fault)
        proof.append(found)
    return proof


def _not_taken(options: BuildOptions, resolution: int, batch: int, fault: str) -> Unable:
    others = " or ".join(option for option, name in PRECISION_OPTIONS.items() if name != options.precision)
    return Unable(
        f"the engine for {resolution} in {options.precision} is not put in place: at batch {batch} {fault}. "
        f"Try --precision {others}, or --least-agreement"
    )


def _read_timings(file: Path) -> bytes:
    try:
        return timing_cache.read_timings(file)
    except OSError as err:
        _say(f"note: the timing cache {file} cannot be read ({err.strerror}); building without it")
        return b""


def _write_timings(file: Path, content: bytes) -> None:
    try:
        timing_cache.write_timings(file, content)
    except OSError as err:
        _say(f"note: the timing cache {file} cannot be written ({err.strerror}); the next build will measure anew")


def _resolutions(options: BuildOptions, source: PlanSource) -> tuple[int, ...]:
    offered = sorted(source.preprocessing)
    wanted = {resolution or source.manifest.default_resolution for resolution in options.resolutions or offered}
    for resolution in sorted(wanted.difference(offered)):
        raise Unable(f"{source.path} does not offer {resolution}, but {', '.join(map(str, offered))}")
    return tuple(sorted(wanted))


def _check_room(bundle: Path, needed: int) -> None:
    """Raise Unable now if the engines could not be written in the end."""
    place = next(folder for folder in (bundle / ENGINES, bundle, *bundle.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Unable(
            f"the engines may take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free at {place}; "
            "make room, or build fewer --resolutions at a time"
        )
    if not os.access(place, os.W_OK):
        raise Unable(f"{place} cannot be written to; run this as its owner, or choose another --bundle")


def _pull_bundle(options: BuildOptions) -> None:
    _say(f"no bundle at {options.bundle}; making it first, as crossvit pull {options.variant} does")
    code = pull([options.variant, "--out", str(options.bundle)])
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        raise Unable("engines are built from a bundle, and none could be made")


def _profiles(spec: BuildSpec) -> Iterator[str]:
    for least, size in zip(spec.least_sizes, spec.batch_sizes, strict=True):
        batch = str(size) if least == size else f"{least} to {size}"
        yield f"[{batch}, {spec.side}, {spec.side}, 3]"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
