"""Checks of NvidiaDevice over the real package cuda-bindings and the stub of CUDA's runtime.

test_cuda_device runs each in a process of its own: `python -m tests.app.engines.gpu.on_stub_cuda LIBRARY CHECK`. Bytes
move as they would on a GPU. Only TensorRT is missing: the network is a function of the stub, which is launched and
captured as kernels are.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engines.gpu.device import (
    Address,
    CaptureFailed,
    Context,
    DeviceError,
    Event,
    PlanNetwork,
    Stream,
    Tensor,
    TensorShape,
)
from app.engines.gpu.tensorrt_engine import TensorRTEngine
from app.engines.interface import EngineRefused, TensorRTPlan
from bundle.plan_manifest import PlanManifest
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs
from tests.app.engines.gpu.fake_tensorrt import Trt
from tests.support import plans
from tests.support.stub_cuda import install

if __name__ == "__main__":
    stub = install(Path(sys.argv[1]))
    stub.stub_chance.argtypes = [ctypes.c_uint, ctypes.c_double]
    stub.stub_network.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 3, ctypes.c_void_p, *[ctypes.c_size_t] * 3]
    sys.modules["tensorrt"] = Trt()

from cuda.bindings import runtime as cuda

from app.engines.gpu.cuda_device import NvidiaDevice, find_device

SIDE = 8
CLASSES = 5
SIZES = (1, 4, 8)


class StubNetwork:
    """The network of the stub as a plan."""

    tensors: Mapping[str, Tensor] = {
        INPUT: Tensor("uint8", (SIDE, SIDE, 3), True),
        **dict.fromkeys(OUTPUTS, Tensor("float32", (CLASSES,), False)),
    }
    scratch_bytes = 512

    def __init__(self) -> None:
        shapes: list[TensorShape] = [(size, SIDE, SIDE, 3) for size in SIZES]
        self.profiles = [(shape, shape, shape) for shape in shapes]

    @contextmanager
    def context(
        self, profile: int, addresses: Mapping[str, Address], _scratch: Address, _stream: Stream
    ) -> Iterator[Context]:
        yield StubContext(SIZES[profile], addresses)


class StubContext:
    def __init__(self, batch: int, addresses: Mapping[str, Address]) -> None:
        self._batch = batch
        self._images = addresses[INPUT]
        self._outputs = addresses[OUTPUTS[0]]
        self._pitch = addresses[OUTPUTS[1]] - self._outputs

    def enqueue(self, stream: Stream) -> None:
        shape = (self._batch, SIDE * SIDE * 3, CLASSES)
        error = stub.stub_network(self._images, *shape, self._outputs, self._pitch, len(OUTPUTS), stream)
        if error:
            raise DeviceError(f"CUDA error {error} while running the network")


class Device(NvidiaDevice):
    @contextmanager
    def network(self, plan: bytes, *, host_code: bool) -> Iterator[PlanNetwork]:  # noqa: ARG002
        yield StubNetwork()


class DeviceWithoutGraphs(Device):
    @contextmanager
    def capture(self, context: Context, stream: Stream) -> Iterator[int]:  # type: ignore[override]
        """What waits cannot be captured, which the runtime says."""
        with super().capture(Waits(self, context), stream) as graph:
            yield graph


class Waits:
    def __init__(self, gpu: NvidiaDevice, context: Context) -> None:
        self._gpu = gpu
        self._context = context

    def enqueue(self, stream: Stream) -> None:
        self._context.enqueue(stream)
        self._gpu.drain()


class DeviceWithoutOrder(Device):
    def wait(self, stream: Stream, event: Event) -> None:
        pass


def expected(images: Images) -> Outputs:
    pixels = images.reshape(len(images), -1)[:, :CLASSES].astype(np.float32)
    return np.stack([pixels * (index + 1) + index for index in range(len(OUTPUTS))])


def pictures(count: int, seed: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def engine_on(gpu: NvidiaDevice) -> TensorRTEngine:
    described = plans.passport(b"", resolution=SIDE, side=SIDE, precision="f32", batch_sizes=SIZES)
    return TensorRTEngine(gpu, TensorRTPlan(PlanManifest.model_validate(described), lambda: b""), "build it")


def right_answers(kind: Callable[[], NvidiaDevice], tries: int) -> int:
    """How often all answers of an engine are right, each time with other luck."""
    right = 0
    for seed in range(tries):
        stub.stub_chance(seed, (0.0, 0.3, 0.8)[seed % 3])
        engine = engine_on(kind())
        try:
            engine.load(SIDE)
            batches = [pictures(count, seed) for count in (1, 3, 4, 30)]
            right += all(np.array_equal(engine.run(images), expected(images)) for images in batches)
        except EngineRefused:  # its self-test has seen it
            pass
        engine.close()
        assert stub.stub_held() == 0
    return right


@contextmanager
def buffers(gpu: NvidiaDevice, size: int) -> Iterator[tuple[Address, NDArray[np.uint8], Stream, Event]]:
    """Memory on the GPU, twice as much that is pinned, a stream and an event."""
    with gpu.memory(size) as address, gpu.pinned(2 * size) as host, gpu.stream() as stream, gpu.event() as event:
        yield address, host, stream, event
    assert stub.stub_held() == 0


def check_the_gpu_is_found() -> None:
    gpu = find_device()
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability) == ("Fake GPU", "9.0")


def check_bytes_go_there_and_back_once_they_are_waited_for() -> None:
    gpu = NvidiaDevice()
    with buffers(gpu, 600) as (address, host, stream, event):
        sent = np.arange(600, dtype=np.uint8)
        host[:600] = sent
        gpu.copy_in(address, host[:600].reshape(2, 10, 10, 3), stream)
        back = np.ndarray((3, 20), np.float32, host[600:])
        before = back.view(np.uint8).copy()
        gpu.copy_out(back, Address(address + 8), 200, stream)
        gpu.record(event, stream)
        assert np.array_equal(back.view(np.uint8), before), "the stub should be late"
        gpu.synchronize(event)
        assert np.array_equal(back.view(np.uint8), [sent[start : start + 80] for start in (8, 208, 408)])


def check_one_stream_waits_for_another() -> None:
    gpu = NvidiaDevice()
    for seed in range(20):
        stub.stub_chance(seed, 0.0)
        with buffers(gpu, 256) as (address, host, stream, event), gpu.stream() as other, gpu.event() as last:
            host[:256] = seed
            gpu.copy_in(address, host[:256], stream)
            gpu.record(event, stream)
            gpu.wait(other, event)
            gpu.copy_out(host[256:].reshape(1, 256), address, 256, other)
            gpu.record(last, other)
            gpu.synchronize(last)
            assert (host[256:] == seed).all()


def check_a_graph_is_launched_again_with_what_is_in_memory_then() -> None:
    gpu = NvidiaDevice()
    pitch = 256
    with buffers(gpu, 1024) as (images, host, stream, event), gpu.memory(pitch * len(OUTPUTS)) as outputs:
        addresses = {name: Address(outputs + index * pitch) for index, name in enumerate(OUTPUTS)} | {INPUT: images}
        with gpu.capture(StubContext(4, addresses), stream) as graph:
            for seed in (1, 2):
                sent = pictures(4, seed)
                host[: sent.nbytes] = sent.reshape(-1)
                gpu.copy_in(images, host[: sent.nbytes], stream)
                gpu.launch(graph, stream)
                back = np.ndarray((len(OUTPUTS), 4 * CLASSES), np.float32, host[1024:])
                gpu.copy_out(back, outputs, pitch, stream)
                gpu.record(event, stream)
                gpu.synchronize(event)
                assert np.array_equal(back, expected(sent).reshape(back.shape))


def check_what_cannot_be_captured_leaves_the_stream_and_the_last_error_as_they_were() -> None:
    gpu = NvidiaDevice()
    with buffers(gpu, 1024) as (images, host, stream, event), gpu.memory(1024) as outputs:
        addresses = {INPUT: images} | {name: Address(outputs + 256 * index) for index, name in enumerate(OUTPUTS)}
        waits = Waits(gpu, StubContext(4, addresses))
        with pytest.raises(CaptureFailed, match="cudaErrorStreamCaptureUnsupported"), gpu.capture(waits, stream):
            pass
        assert cuda.cudaGetLastError() == (cuda.cudaError_t.cudaSuccess,)
        gpu.copy_in(images, host[:1024], stream)
        gpu.record(event, stream)
        gpu.synchronize(event)


def check_an_engine_answers_right_with_graphs_and_without() -> None:
    assert right_answers(Device, 30) == 30
    assert right_answers(DeviceWithoutGraphs, 12) == 12


def check_an_engine_whose_streams_do_not_wait_is_noticed() -> None:
    assert right_answers(DeviceWithoutOrder, 12) < 8


def check_a_copy_beyond_its_buffer_is_an_error() -> None:
    gpu = NvidiaDevice()
    with (
        pytest.raises(DeviceError, match="cudaErrorIllegalAddress while giving"),
        gpu.memory(256) as address,
        gpu.pinned(256) as host,
        gpu.stream() as stream,
    ):
        gpu.copy_in(Address(address + 1), host, stream)


def check_memory_that_there_is_not_is_an_error_with_advice() -> None:
    with (
        pytest.raises(DeviceError, match=r"cudaErrorMemoryAllocation while taking \d+ bytes of GPU memory: end what"),
        NvidiaDevice().memory(1 << 40),
    ):
        pass


if __name__ == "__main__":
    globals()[sys.argv[2]]()
