"""TensorRT and CUDA: the only module of the exporter that calls them, and it does nothing else.

Written for TensorRT 10.13 to 11. Not imported before it is needed: both packages may be missing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cuda

from bundle.precisions import F32
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs
from export.plans import build_errors
from export.plans.build_spec import BuildSpec, BuiltPlan, Device, Progress, Unable, check_version

check_version(str(trt.__version__))  # first: other versions may lack base classes of the classes below

T = TypeVar("T")

_SUCCESS = cuda.cudaError_t.cudaSuccess


class TensorRTBuilder:
    """An export.plans.build_spec.PlanBuilder for the first GPU that CUDA shows: CUDA_VISIBLE_DEVICES selects it."""

    def __init__(self) -> None:
        self._log = _LOG

    def device(self) -> Device:
        """Raises Unable without a GPU, or without a driver that fits."""
        error, count = cuda.cudaGetDeviceCount()
        driver = int(_checked(cuda.cudaDriverGetVersion()))
        if error == cuda.cudaError_t.cudaErrorInsufficientDriver or driver == 0:
            raise Unable(build_errors.no_driver(driver, int(_checked(cuda.cudaRuntimeGetVersion()))))
        if error == cuda.cudaError_t.cudaErrorNoDevice or count == 0:
            raise Unable(build_errors.NO_GPU)
        _checked((error, count))
        _checked(cuda.cudaSetDevice(0))
        properties: cuda.cudaDeviceProp = _checked(cuda.cudaGetDeviceProperties(0))
        return Device(
            tensorrt=str(trt.__version__),
            gpu=properties.name.decode().rstrip("\0"),
            compute_capability=f"{properties.major}.{properties.minor}",
            driver=build_errors.driver_version() or build_errors.dotted(driver),
            cuda=build_errors.dotted(driver),
            memory_bytes=int(properties.totalGlobalMem),
        )

    def build(self, graph: bytes, spec: BuildSpec, progress: Progress) -> BuiltPlan:
        """The plan of `graph`. Blocks for minutes without holding Python's lock."""
        self._log.clear()
        builder = self._make(trt.Builder)
        # In 11 every network is strongly typed and the flag does nothing; 10 needs it.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)  # owns the weights: has to live until the build ends
        if not parser.parse(graph):
            raise Unable(build_errors.not_parsed(_errors(parser)))
        config = builder.create_builder_config()
        timings = self._configure(config, spec)
        for least, batch in zip(spec.least_sizes, spec.batch_sizes, strict=True):
            profile = builder.create_optimization_profile()
            smallest, best = (trt.Dims([size, spec.side, spec.side, 3]) for size in (least, batch))
            refused = f"TensorRT takes no profile for {batch} images"
            with self._raising(refused):
                profile.set_shape(INPUT, smallest, best, best)
            if config.add_optimization_profile(profile) < 0:
                raise self._failure(refused)
        monitor = _Monitor(progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure("TensorRT built no engine")
        return BuiltPlan(
            plan=bytes(plan),
            workspace_bytes=int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)),
            timing_cache=bytes(timings.serialize()),
            notes=tuple(dict.fromkeys(self._log.lines)),
        )

    def run(self, plan: bytes, spec: BuildSpec, images: Images) -> Sequence[Outputs]:
        """The answers of every profile to `images`, each (outputs, images, classes)."""
        self._log.clear()
        runtime = self._make(trt.Runtime)
        # Such a plan has code of its own, which a runtime runs only if allowed. This one was built a moment ago.
        runtime.engine_host_code_allowed = spec.version_compatible
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._failure("TensorRT cannot read the plan that it has just written")
        return [self._run(engine, index, spec, images) for index in range(len(spec.batch_sizes))]

    def _run(self, engine: trt.ICudaEngine, index: int, spec: BuildSpec, images: Images) -> Outputs:
        batch = spec.batch_sizes[index]
        padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        answers = []
        with ExitStack() as stack:
            stream = int(_checked(cuda.cudaStreamCreate()))
            stack.callback(cuda.cudaStreamDestroy, stream)
            context = self._context(engine, index, spec, stream)
            outputs = [np.empty(tuple(context.get_tensor_shape(name)), np.float32) for name in OUTPUTS]
            memory = {}
            for name, array in zip((INPUT, *OUTPUTS), (padded[:batch], *outputs), strict=True):
                memory[name] = int(_checked(cuda.cudaMalloc(array.nbytes)))
                stack.callback(cuda.cudaFree, memory[name])
                if not context.set_tensor_address(name, memory[name]):
                    raise self._failure(f"the engine takes no memory for {name}")
            for start in range(0, len(padded), batch):
                _copy(memory[INPUT], padded[start : start + batch].ctypes.data, padded[:batch].nbytes, stream)
                if not context.execute_async_v3(stream):
                    raise self._failure("the engine does not run")
                for name, array in zip(OUTPUTS, outputs, strict=True):
                    _copy(array.ctypes.data, memory[name], array.nbytes, stream)
                _checked(cuda.cudaStreamSynchronize(stream))
                answers.append(np.stack(outputs))
        return np.concatenate(answers, axis=1)[:, : len(images)]

    def _context(self, engine: trt.ICudaEngine, index: int, spec: BuildSpec, stream: int) -> trt.IExecutionContext:
        context = engine.create_execution_context()
        if context is None:
            raise self._failure("TensorRT made no execution context")
        shape = (spec.batch_sizes[index], spec.side, spec.side, 3)
        refused = f"the engine's profile {index} does not take images {shape}"
        with self._raising(refused):
            context.set_optimization_profile_async(index, stream)
        if not context.set_input_shape(INPUT, shape):
            raise self._failure(refused)
        return context

    def _configure(self, config: trt.IBuilderConfig, spec: BuildSpec) -> trt.ITimingCache:
        config.builder_optimization_level = spec.optimization_level
        if spec.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_bytes)
        if spec.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if spec.precision == F32:
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and has ten bits
        timings: trt.ITimingCache | None = config.create_timing_cache(spec.timing_cache)
        if timings is None or not config.set_timing_cache(timings, False):  # another GPU's or version's, or damaged
            self._log.lines.append("the timing cache does not fit this GPU and TensorRT; a new one replaces it")
            timings = config.create_timing_cache(b"")
            if timings is None or not config.set_timing_cache(timings, False):
                raise self._failure("TensorRT takes no timing cache, not even a new one")
        return timings

    def _make(self, kind: Callable[[trt.ILogger], T]) -> T:
        try:
            return kind(self._log)
        except (TypeError, RuntimeError) as err:  # the bindings raise these for a null pointer
            raise self._failure("TensorRT does not start") from err

    @contextmanager
    def _raising(self, what: str) -> Iterator[None]:
        """Unable with TensorRT's reason, for methods whose bindings raise RuntimeError where it returned false."""
        try:
            yield
        except RuntimeError as err:
            raise self._failure(what) from err

    def _failure(self, what: str) -> Unable:
        error, free, total = cuda.cudaMemGetInfo()
        return Unable(build_errors.failed(what, self._log.lines, (free, total) if error == _SUCCESS else None))


class _Log(trt.ILogger):  # type: ignore[misc, unused-ignore]  # of Any, where there is no TensorRT
    """Keeps warnings and errors; TensorRT calls it from any of its threads."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (
            trt.ILogger.Severity.INTERNAL_ERROR,
            trt.ILogger.Severity.ERROR,
            trt.ILogger.Severity.WARNING,
        ):
            self.lines.append(msg)

    def clear(self) -> None:
        self.lines.clear()


_LOG = _Log()  # never freed: TensorRT keeps a pointer to the first that it is given


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]
    """Passes TensorRT's progress on."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._progress.start(phase_name, parent_phase, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        return self._progress.step(phase_name, step)

    def phase_finish(self, phase_name: str) -> None:
        self._progress.finish(phase_name)


def _errors(parser: trt.OnnxParser) -> Iterator[build_errors.NodeError]:
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        where = f"{error.code()}, {error.file()}:{error.line()}, {error.func()}"
        yield build_errors.NodeError(error.node_operator(), error.node_name(), error.node(), error.desc(), where)


def _checked(result: tuple[Any, ...]) -> Any:
    """The values that a call to CUDA returned. Raises Unable if it failed."""
    error, *values = result
    if error == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise Unable(f"the GPU's memory does not suffice to run the engine; {build_errors.MORE_MEMORY}")
    if error != _SUCCESS:
        _, text = cuda.cudaGetErrorString(error)
        raise Unable(f"the GPU failed: {text.decode()} ({error.name}); nvidia-smi says how it is")
    return values[0] if len(values) == 1 else values


def _copy(to: int, source: int, size: int, stream: int) -> None:
    _checked(cuda.cudaMemcpyAsync(to, source, size, cuda.cudaMemcpyKind.cudaMemcpyDefault, stream))
