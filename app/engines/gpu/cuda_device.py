"""Every call into TensorRT (10.13 to 10.16, and 11) and the CUDA runtime; app.engines.gpu.device documents each.

The bindings of all these versions agree on what is used here. TensorRT gives the reason of a failure only to its
logger, so the last error that it logged is part of the exception.
"""

import ctypes
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cuda
from numpy.typing import NDArray

from app.engines.gpu.cuda_runtime import done, has_gpu, open_gpu
from app.engines.gpu.device import (
    Address,
    CaptureFailed,
    Context,
    DeviceError,
    Event,
    Graph,
    PlanNetwork,
    Stream,
    Tensor,
    TensorShape,
)

log = logging.getLogger(__name__)

_DTYPES: dict[trt.DataType, str] = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}


def find_device() -> "NvidiaDevice | None":
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES says which that is); None if there is no driver or no GPU.

    DeviceError where the driver is too old, or does not answer.
    """
    return NvidiaDevice() if has_gpu() else None


class NvidiaDevice:
    """Device 0."""

    def __init__(self) -> None:
        properties = open_gpu()
        self.name: str = properties.name.decode().rstrip("\0")
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.tensorrt: str = trt.__version__

    @contextmanager
    def network(self, plan: bytes, *, host_code: bool) -> Iterator[PlanNetwork]:
        _LOG.forget()
        try:
            runtime: trt.Runtime = trt.Runtime(_LOG)
        except (TypeError, RuntimeError) as err:  # raised by its bindings for a null pointer
            raise _LOG.error("starting TensorRT") from err
        runtime.engine_host_code_allowed = host_code
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise _LOG.error("deserialising the plan")
        yield _Network(engine)

    @contextmanager
    def memory(self, size: int) -> Iterator[Address]:
        address = done(cuda.cudaMalloc(size), f"taking {size} bytes of GPU memory")
        try:
            yield Address(int(address))
        finally:
            done(cuda.cudaFree(address), "giving GPU memory back")

    @contextmanager
    def pinned(self, size: int) -> Iterator[NDArray[np.uint8]]:
        address = done(cuda.cudaMallocHost(size), f"taking {size} bytes of pinned memory")
        try:
            yield np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
        finally:
            done(cuda.cudaFreeHost(address), "giving pinned memory back")

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        # Non-blocking: the legacy default stream, which libraries may use, does not hold it up.
        stream = done(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), "making a stream")
        try:
            yield Stream(int(stream))
        finally:
            done(cuda.cudaStreamDestroy(stream), "ending a stream")

    @contextmanager
    def event(self) -> Iterator[Event]:
        # Blocking: a thread that waits sleeps, since decoders need the cores. No timing, which would make waits slower.
        flags = cuda.cudaEventBlockingSync | cuda.cudaEventDisableTiming
        event = done(cuda.cudaEventCreateWithFlags(flags), "making an event")
        try:
            yield Event(int(event))
        finally:
            done(cuda.cudaEventDestroy(event), "ending an event")

    def copy_in(self, to: Address, pixels: NDArray[np.uint8], stream: Stream) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        done(cuda.cudaMemcpyAsync(to, pixels.ctypes.data, pixels.nbytes, kind, stream), "copying images to the GPU")

    def copy_out(self, to: NDArray[Any], start: Address, pitch: int, stream: Stream) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        rows, width = len(to), to[0].nbytes
        copied = cuda.cudaMemcpy2DAsync(to.ctypes.data, width, start, pitch, width, rows, kind, stream)
        done(copied, "copying logits from the GPU")

    @contextmanager
    def capture(self, context: Context, stream: Stream) -> Iterator[Graph]:
        # Thread-local: what other threads do cannot break it.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        done(cuda.cudaStreamBeginCapture(stream, mode), "beginning to capture a graph")
        try:
            context.enqueue(stream)
        except DeviceError as err:
            # It sets the stream free. It fails too, or returns a graph of what came before the failure.
            error, unfinished = cuda.cudaStreamEndCapture(stream)
            if error == cuda.cudaError_t.cudaSuccess and int(unfinished):
                cuda.cudaGraphDestroy(unfinished)
            raise _capture_failed(err) from err
        try:
            captured = done(cuda.cudaStreamEndCapture(stream), "capturing a graph")
            try:
                graph = done(cuda.cudaGraphInstantiate(captured, 0), "instantiating a graph")
            finally:
                done(cuda.cudaGraphDestroy(captured), "ending a captured graph")
        except DeviceError as err:
            raise _capture_failed(err) from err
        try:
            yield Graph(int(graph))
        finally:
            done(cuda.cudaGraphExecDestroy(graph), "ending a graph")

    def launch(self, graph: Graph, stream: Stream) -> None:
        done(cuda.cudaGraphLaunch(graph, stream), "launching a graph")

    def record(self, event: Event, stream: Stream) -> None:
        done(cuda.cudaEventRecord(event, stream), "recording an event")

    def wait(self, stream: Stream, event: Event) -> None:
        done(cuda.cudaStreamWaitEvent(stream, event, cuda.cudaEventWaitDefault), "letting a stream wait")

    def passed(self, event: Event) -> bool:
        (error,) = cuda.cudaEventQuery(event)
        if error == cuda.cudaError_t.cudaErrorNotReady:
            return False
        done((error,), "asking the GPU how far it is")
        return True

    def synchronize(self, event: Event) -> None:
        done(cuda.cudaEventSynchronize(event), "waiting for the GPU")

    def drain(self) -> None:
        done(cuda.cudaDeviceSynchronize(), "waiting for the GPU to come to rest")


def _capture_failed(err: DeviceError) -> CaptureFailed:
    """Also resets CUDA's last error, which a library that asks for it later would take for its own."""
    cuda.cudaGetLastError()
    return CaptureFailed(str(err))


class _Logger(trt.ILogger):  # type: ignore[misc]  # without TensorRT this is a subclass of Any
    """Passes on what TensorRT logs, and keeps its last error."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # pybind11 wants it called by this name
        self.forget()

    def forget(self) -> None:
        self._last = "it did not say why"

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._last = msg
            log.error("TensorRT: %s", msg)
        elif severity == trt.ILogger.Severity.WARNING:
            log.warning("TensorRT: %s", msg)

    def error(self, doing: str) -> DeviceError:
        return DeviceError(f"TensorRT failed while {doing}: {self._last}")


_LOG = _Logger()  # one for all, and for good: TensorRT keeps a pointer to the first that it is given


class _Network:
    def __init__(self, engine: trt.ICudaEngine) -> None:
        self._engine = engine
        names: list[str] = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.tensors: Mapping[str, Tensor] = {name: self._tensor(name) for name in names}
        self._input = next((name for name, tensor in self.tensors.items() if tensor.is_input), "")
        profiles: int = engine.num_optimization_profiles if self._input else 0
        self.profiles = [self._profile(index) for index in range(profiles)]
        self.scratch_bytes: int = engine.device_memory_size_v2

    @contextmanager
    def context(
        self, profile: int, addresses: Mapping[str, Address], scratch: Address, stream: Stream
    ) -> Iterator[Context]:
        # 10 has create_execution_context_without_device_memory as well; 11 has only this way to bring memory.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: trt.IExecutionContext | None = self._engine.create_execution_context(strategy)
        if context is None:
            raise _LOG.error("creating an execution context")
        shape = self.profiles[profile][1]
        try:
            context.set_optimization_profile_async(profile, stream)
        except RuntimeError as err:  # raised by its bindings where TensorRT returned false
            raise _LOG.error(f"choosing profile {profile}") from err
        if not context.set_input_shape(self._input, shape):
            raise _LOG.error(f"setting the input's shape to {shape}")
        for name in self.tensors:
            if not context.set_tensor_address(name, addresses[name]):
                raise _LOG.error(f"binding {name}")
        context.set_device_memory(scratch, self.scratch_bytes)
        yield _Context(context)

    def _tensor(self, name: str) -> Tensor:
        dtype: trt.DataType = self._engine.get_tensor_dtype(name)
        is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        return Tensor(_DTYPES.get(dtype, str(dtype)), tuple(self._engine.get_tensor_shape(name))[1:], is_input)

    def _profile(self, index: int) -> tuple[TensorShape, TensorShape, TensorShape]:
        smallest, best, largest = self._engine.get_tensor_profile_shape(self._input, index)
        return tuple(smallest), tuple(best), tuple(largest)


class _Context:
    def __init__(self, context: trt.IExecutionContext) -> None:
        self._context = context

    def enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream):
            raise _LOG.error("running the network")
