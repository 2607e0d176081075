"""The TensorRT engine: on a fake GPU (see fake_gpu.py) since there is none here, and on a real one where there is."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engines import registry
from app.engines.batch_splitting import BatchSplitter
from app.engines.engine_process.engine_host import EngineHost
from app.engines.gpu import tensorrt_engine
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
    TensorRTDevice,
)
from app.engines.gpu.tensorrt_engine import TensorRTEngine, offer_tensorrt
from app.engines.gpu.transfer_slot import Streams, TransferSlot
from app.engines.interface import EngineFiles, EngineRefused, TensorRTPlan
from bundle.bundle_errors import BadBundle
from bundle.golden import Golden, mismatch
from bundle.plan_manifest import PlanManifest
from bundle.reader import open_bundle
from bundle.tensors import OUTPUTS, ImageRows, Images, Outputs
from model.spec import SOFTMAX
from tests.app.engines.gpu.fake_gpu import FakeContext, FakeGpu
from tests.app.engines.gpu.fake_tensorrt import LoadedPlan, Trt
from tests.app.engines.gpu.on_fake_gpu import (
    CLASSES,
    PLAN,
    SIDE,
    engine_on,
    fake,
    held,
    loaded,
    network,
    passport,
    pictures,
)
from tests.bindings.fetch import NotToBeHad, fetched
from tests.bindings.tensorrt import importable
from tests.support.modules import loaded_anew

# What comes out


sizes = st.sets(st.integers(1, 16), min_size=1, max_size=5).map(lambda found: tuple(sorted(found)))


@settings(max_examples=150, deadline=None)
@given(
    sizes=sizes,
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    eager=st.sampled_from([0.0, 0.2, 0.7, 0.95]),
    captures=st.booleans(),
)
def test_every_image_gets_its_own_logits_in_order(
    sizes: tuple[int, ...], counts: list[int], seed: int, eager: float, captures: bool
) -> None:
    gpu = fake(sizes, seed=seed, eager=eager, captures=captures)
    engine = loaded(gpu)
    for index, count in enumerate(counts):
        images = pictures(count, seed=index)
        outputs = engine.run(images)
        assert outputs.dtype == np.float32
        np.testing.assert_array_equal(outputs, network(images))
    engine.close()
    assert held(gpu) == 0


def test_outputs_are_unchanged_by_the_next_run() -> None:
    engine = loaded(fake())
    first = engine.run(pictures(9, seed=1))
    engine.run(pictures(9, seed=2))
    engine.close()
    np.testing.assert_array_equal(first, network(pictures(9, seed=1)))


def test_images_need_not_lie_in_one_piece_of_memory() -> None:
    images = pictures(20)[::2, ::-1]
    np.testing.assert_array_equal(loaded(fake()).run(images), network(images))


def test_a_loaded_engine_allocates_nothing_on_the_gpu_and_captures_no_graph() -> None:
    gpu = fake((1, 4, 8))
    engine = loaded(gpu)
    taken = dict(gpu.takes)
    assert taken["graph"] == taken["context"] == 6  # for each bucket and lane
    before = len(gpu.calls)
    engine.run(pictures(100))
    assert set(gpu.calls[before:]) == {"copy_in", "record", "wait", "launch", "copy_out", "synchronize"}
    assert dict(gpu.takes) == taken


def test_the_next_images_are_copied_while_the_network_runs() -> None:
    """The GPU does nothing before it must: two pieces are on their way before a result is waited for."""
    gpu = fake((8,), eager=0.0)
    engine = loaded(gpu)
    before = len(gpu.calls)
    engine.run(pictures(24))
    asked = [call for call in gpu.calls[before:] if call in ("copy_in", "launch", "synchronize")]
    assert asked == ["copy_in", "launch"] * 2 + ["synchronize", "copy_in", "launch"] + ["synchronize"] * 2


@pytest.mark.parametrize(("copy", "expected"), [(0.0, [8]), (1.0, [4, 4])])
def test_a_batch_is_cut_where_its_copy_takes_longer_than_another_run(
    copy: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransferSlot, "network_seconds", lambda _, bucket: {4: 2.0, 8: 3.0}[bucket])
    monkeypatch.setattr(TransferSlot, "copy_seconds", lambda _: copy)
    gpu = fake((4, 8))
    engine = loaded(gpu)
    gpu.ran.clear()
    engine.run(pictures(8))
    assert gpu.ran == expected


def test_times_of_the_network_and_of_the_copies_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeGpu):
        def launch(self, graph: Graph, stream: Stream) -> None:
            time.sleep(0.02)
            super().launch(graph, stream)

        def copy_in(self, to: Address, pixels: NDArray[np.uint8], stream: Stream) -> None:
            time.sleep(0.002 * len(pixels))
            super().copy_in(to, pixels, stream)

    measured: list[Any] = []

    def splitter(network_seconds: dict[int, float], copy_seconds: float) -> BatchSplitter:
        measured.append((network_seconds, copy_seconds))
        return BatchSplitter(network_seconds, copy_seconds)

    monkeypatch.setattr(tensorrt_engine, "BatchSplitter", splitter)
    loaded(fake((1, 8), Slow))
    ((network_seconds, copy_seconds),) = measured
    assert network_seconds.keys() == {1, 8}
    assert 0.02 <= min(network_seconds.values()) < 0.2
    assert 0.002 <= copy_seconds < 0.02


def test_where_no_graph_can_be_captured_the_network_runs_without() -> None:
    gpu = fake(captures=False)
    images = pictures(20)
    engine = loaded(gpu)
    np.testing.assert_array_equal(engine.run(images), network(images))
    assert gpu.launched == 0
    engine.close()
    assert held(gpu) == 0


def test_a_network_that_cannot_be_captured_is_run_once_before_it_is_taken() -> None:
    gpu = fake(captures=False)
    loaded(gpu)
    last = len(gpu.calls) - 1 - gpu.calls[::-1].index("capture")
    assert gpu.calls[last + 1 : last + 4] == ["enqueue", "record", "synchronize"]
    first = gpu.calls.index("capture")
    with pytest.raises(DeviceError, match="while calling enqueue"):
        loaded(fake(captures=False, fails_at=first + 2))


def test_a_call_should_hold_the_largest_batch_size_for_each_lane() -> None:
    assert (engine_on(fake((2, 4, 16))).batch, engine_on(fake()).precision) == (32, "fp16")


@pytest.mark.parametrize("images", [np.zeros((2, 1, 1, 3), np.uint8), np.zeros((2, SIDE, SIDE, 3), np.float32)])
def test_images_of_another_size_or_type_are_not_run(images: NDArray[Any]) -> None:
    engine = loaded(fake())
    with pytest.raises(ValueError, match="instead of uint8"):
        engine.run(images)
    assert engine.run(pictures(3)).shape == (3, 3, CLASSES)


# The tests above can fail: whoever forgets one of the waits, or shares what is not to be shared, is caught.


class ForgetsAWait(FakeGpu):
    """Each piece has two waits: the network's for its images, and the copy's for the network."""

    kept = 0
    waits = 0

    def wait(self, stream: Stream, event: Event) -> None:
        if self.waits % 2 == self.kept:
            super().wait(stream, event)
        self.waits += 1


class ForgetsTheFirstWait(ForgetsAWait):
    kept = 1


class WaitsForNoResult(FakeGpu):
    def synchronize(self, event: Event) -> None:
        if self.takes["graph"] < 2:  # it is still being loaded
            super().synchronize(event)


class SharesMemory(FakeGpu):
    """The lanes get the same buffers on the GPU."""

    @contextmanager
    def memory(self, size: int) -> Iterator[Address]:
        same = [address for address, block in self.blocks.items() if len(block) == size]
        with nullcontext(Address(same[0])) if same else super().memory(size) as address:
            yield address


class SharesPinnedMemory(FakeGpu):
    """The lanes get the same buffers on the host."""

    @contextmanager
    def pinned(self, size: int) -> Iterator[NDArray[np.uint8]]:
        same = [host for host in self.shared if len(host) == size]
        with nullcontext(same[0]) if same else super().pinned(size) as host:
            self.shared.append(host)
            yield host

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shared: list[NDArray[np.uint8]] = []


class RunsOnItsOwnStream(TransferSlot):
    """So that both networks use the same scratch memory at once."""

    def __init__(
        self, gpu: TensorRTDevice, network: PlanNetwork, streams: Streams, scratch: Address, **more: Any
    ) -> None:
        streams = replace(streams, network=more["held"].enter_context(gpu.stream()))
        super().__init__(gpu, network, streams, scratch, **more)


class IsNeverWaitedFor(TransferSlot):
    """The next piece takes the lane while one is on its way."""

    def submit(self, images: ImageRows, bucket: int, outputs: Outputs) -> None:
        super().submit(images, bucket, outputs)
        self._awaited = None


def right_answers(kind: type[FakeGpu]) -> int:
    """Of 20 tries, each with other luck."""
    right = 0
    for seed in range(20):
        engine = engine_on(fake((8,), kind, seed=seed))
        try:
            engine.load(SIDE)
        except EngineRefused:  # its self-test has seen it
            continue
        images = pictures(60, seed=seed)
        right += np.array_equal(engine.run(images), network(images))
    return right


def test_with_all_waits_all_answers_are_right() -> None:
    assert right_answers(FakeGpu) == 20


@pytest.mark.parametrize(
    "kind", [ForgetsAWait, ForgetsTheFirstWait, WaitsForNoResult, SharesMemory, SharesPinnedMemory]
)
def test_a_gpu_that_keeps_no_order_is_noticed(kind: type[FakeGpu]) -> None:
    assert right_answers(kind) < 15


@pytest.mark.parametrize("kind", [RunsOnItsOwnStream, IsNeverWaitedFor])
def test_a_slot_that_keeps_no_order_is_noticed(kind: type[TransferSlot], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engines.gpu.tensorrt_engine.TransferSlot", kind)
    assert right_answers(FakeGpu) < 15


# The self-test at load


def spoiled_row(images: Images) -> Outputs:
    logits = network(images)
    if len(images) == 8:
        logits[1, 6] *= 1.5
    return logits


def no_numbers(images: Images) -> Outputs:
    return np.where(len(images) == 8, np.float32(np.nan), network(images))


def nothing_but_no_numbers(images: Images) -> Outputs:
    return np.full_like(network(images), np.nan)


class LeavesSomethingBehind:
    """The run after one of 8 images goes wrong."""

    last = 0

    def __call__(self, images: Images) -> Outputs:
        last, self.last = self.last, len(images)
        return network(images) + np.float32(100 * (last == 8 and len(images) == 1))


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (spoiled_row, r"a batch of 8 in slot 1 of 2 .* logits [\d.e+-]+ off, over 2.0e-02 for fp16"),
        (no_numbers, "a batch of 8 in slot 1 of 2 .* logits nan off"),
        (nothing_but_no_numbers, "a batch of 1 in slot 1 of 2 .* logits nan off"),
        (LeavesSomethingBehind(), "a batch of 1 in slot 1 of 2"),
    ],
)
def test_a_plan_whose_batch_sizes_answer_differently_is_refused(
    function: Callable[[Images], Outputs], fault: str
) -> None:
    gpu = FakeGpu(function, (1, 8), SIDE, CLASSES)
    with pytest.raises(EngineRefused, match=rf"^the plan does not run as it was built: {fault}.*Build it again: build"):
        loaded(gpu)
    assert held(gpu) == 0


class SpoilsAGraph(FakeGpu):
    """The graph that is captured last overwrites a logit: that of the largest batch size in the second slot."""

    @contextmanager
    def capture(self, context: Context, stream: Stream) -> Iterator[Graph]:
        assert isinstance(context, FakeContext)
        with super().capture(context, stream) as graph:
            if self.takes["graph"] == 4:

                def spoil() -> None:
                    context._output("logits_large")[:4] = 0xFF

                self.graphs[graph].append(spoil)
            yield graph


def test_a_slot_that_answers_differently_is_refused() -> None:
    with pytest.raises(EngineRefused, match="a batch of 8 in slot 2 of 2 answers otherwise than single images"):
        loaded(fake(kind=SpoilsAGraph))


def test_slots_that_disturb_each_other_are_refused() -> None:
    """As they do only in a call of several pieces, and when the GPU happens to be late."""
    refused = set()
    for seed in range(20):
        try:
            loaded(fake((8,), SharesMemory, seed=seed))
        except EngineRefused as err:
            refused.add(str(err).partition(":")[2].partition("answers")[0])
    assert refused == {" a call of 16 images "}


# What fails


@pytest.mark.parametrize("stays_broken", [False, True])
def test_an_error_at_any_call_is_raised_and_everything_given_back(
    stays_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(engine: TensorRTEngine) -> None:
        engine.load(SIDE)
        engine.run(pictures(20))

    sizes = (4, 8)
    splitter = BatchSplitter({4: 1.0, 8: 1.1})  # 20 images are three pieces, whatever times are measured
    monkeypatch.setattr(tensorrt_engine, "BatchSplitter", lambda *_: splitter)
    whole = fake(sizes)
    engine = engine_on(whole)
    use(engine)
    used = len(whole.calls)
    engine.close()
    assert held(whole) == 0
    for number, call in enumerate(whole.calls, 1):
        gpu = fake(sizes, fails_at=number, stays_broken=stays_broken)
        engine = engine_on(gpu)
        if number <= used:
            with pytest.raises(DeviceError, match=f"cudaErrorFake while calling {call}, the call number {number}"):
                use(engine)
            with pytest.raises(DeviceError, match="not loaded, or has failed"):
                engine.run(pictures(1))
        else:
            use(engine)
        engine.close()
        assert held(gpu) == 0, f"after an error at call {number}, {call}"


def test_the_first_error_is_told_even_if_closing_fails_too() -> None:
    whole = fake()
    loaded(whole)
    number = 1 + whole.calls.index("launch")
    with pytest.raises(DeviceError, match=f"while calling launch, the call number {number}"):
        loaded(fake(fails_at=number, stays_broken=True))


def test_a_load_that_failed_can_be_tried_again() -> None:
    gpu = fake(fails_at=10)
    engine = engine_on(gpu)
    with pytest.raises(DeviceError):
        engine.load(SIDE)
    engine.load(SIDE)
    np.testing.assert_array_equal(engine.run(pictures(3)), network(pictures(3)))


def test_loading_and_closing_twice_are_no_ops() -> None:
    gpu = fake()
    engine = loaded(gpu)
    engine.load(SIDE)
    assert len(gpu.plans) == 1
    engine.close()
    engine.close()
    assert held(gpu) == 0


def test_an_engine_is_closed_while_the_gpu_still_works() -> None:
    """As when a run was given up: nothing may be taken from under the GPU, which the fake would notice."""
    gpu = fake((8,), eager=0.0)
    engine = loaded(gpu)
    gpu.fails_at = len(gpu.calls) + 14  # in the middle of the third piece
    with pytest.raises(DeviceError):
        engine.run(pictures(60))
    assert any(gpu.queues.values())
    engine.close()
    assert held(gpu) == 0


def test_another_size_of_images_is_not_loaded() -> None:
    with pytest.raises(ValueError, match="for images of 4 pixels, not 224"):
        engine_on(fake()).load(224)


# Which plans are taken


def files(*passports: PlanManifest) -> EngineFiles:
    return EngineFiles(
        {"f32": lambda: b""}, [TensorRTPlan(one, lambda: PLAN) for one in passports], "python build_it.py"
    )


def offer(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `gpu` be the one that the service finds."""
    monkeypatch.setattr(f"{__name__}.offers_of_a_fake", lambda found, side: offer_tensorrt(found, side, lambda: gpu))
    monkeypatch.setitem(registry.ENGINES, "tensorrt", f"{__name__}:offers_of_a_fake")


offers_of_a_fake: Any = None


def offered(*passports: PlanManifest, gpu: FakeGpu | None = None) -> list[str]:
    found = gpu or fake()
    return [engine.precision for engine in offer_tensorrt(files(*passports), SIDE, lambda: found)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "Another GPU"}, r"for Another GPU \(compute capability 9.0\), and this is Fake GPU"),
        ({"compute_capability": "8.6"}, r"capability 8.6\), and this is Fake GPU \(compute capability 9.0"),
        ({"tensorrt": "10.16.1.10"}, "for TensorRT 10.16.1.10, and this is 10.16.1.11"),
        ({"tensorrt": "10.13.0.35"}, "for TensorRT 10.13.0.35, and this is 10.16.1.11"),
        ({"tensorrt": "10.16.2.1", "version_compatible": True}, "10.16.2.1 or later, and this is 10.16.1.11"),
        ({"tensorrt": "11.4.0.106", "version_compatible": True}, "11.4.0.106 or later, and this is 10.16.1.11"),
        ({"tensorrt": "9.3.0.1", "version_compatible": True}, "9.3.0.1 or later, and this is 10.16.1.11"),
        ({"side": 224}, "for images of 224 pixels, not 4"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_unread(changes: dict[str, Any], reason: str) -> None:
    gpu = fake()
    with pytest.raises(EngineRefused, match=rf"{reason}.*Build one on this machine: python build_it.py"):
        offered(passport(**changes), gpu=gpu)
    assert gpu.plans == []


def test_without_any_plan_it_says_how_to_build_one() -> None:
    with pytest.raises(EngineRefused, match=r"no TensorRT plan.*Build one on this machine: python build_it.py"):
        offered()


def test_each_precision_is_offered_once_the_half_ones_first() -> None:
    plans = [passport(precision="f32"), passport(precision="bf16"), passport(gpu="Another GPU"), passport(), passport()]
    assert offered(*plans) == ["fp16", "bf16", "f32"]


@pytest.mark.parametrize("built", ["10.13.0.35", "10.16.1.11"])
def test_a_version_compatible_plan_runs_with_later_versions_and_brings_its_own_runtime(built: str) -> None:
    gpu = fake()
    (engine,) = offer_tensorrt(files(passport(tensorrt=built, version_compatible=True)), SIDE, lambda: gpu)
    engine.load(SIDE)
    assert gpu.plans == [(PLAN, True)]


def test_a_plan_of_this_very_version_is_preferred_and_brings_no_code_of_its_own() -> None:
    gpu = fake()
    older = passport(tensorrt="10.13.0.35", version_compatible=True)
    (engine,) = offer_tensorrt(files(older, passport()), SIDE, lambda: gpu)
    engine.load(SIDE)
    assert gpu.plans == [(PLAN, False)]


@pytest.mark.parametrize(
    ("built", "here"), [("10.13.3.9.post1", "10.13.3.9"), ("10.13.3.9", "10.13.3.9.post1"), ("10.14.1.48.post1",) * 2]
)
def test_a_version_that_was_packaged_again_is_the_same(built: str, here: str) -> None:
    gpu = fake(tensorrt=here)
    older = passport(tensorrt="10.13.0.35", version_compatible=True)
    (engine,) = offer_tensorrt(files(older, passport(tensorrt=built)), SIDE, lambda: gpu)
    engine.load(SIDE)
    assert gpu.plans == [(PLAN, False)]


def test_without_a_gpu_nothing_is_offered() -> None:
    assert list(offer_tensorrt(files(passport()), SIDE, lambda: None)) == []


def test_a_gpu_that_does_not_answer_is_a_reason() -> None:
    def broken() -> TensorRTDevice:
        raise DeviceError("cudaErrorDevicesUnavailable while opening the GPU")

    with pytest.raises(EngineRefused, match="the GPU cannot be used: cudaErrorDevicesUnavailable while opening"):
        list(offer_tensorrt(files(passport()), SIDE, broken))


class Cuda(ModuleType):
    """The CUDA runtime where a graph is captured: a fake, which says what was called. `fails` names the call that does.

    What is left of a capture in which work failed is the graph `left`; 0 is none.
    """

    cudaError_t = IntEnum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorFake": 900})  # noqa: N815
    cudaStreamCaptureMode = IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})  # noqa: N815

    def __init__(self, fails: str = "", left: int | None = 7) -> None:
        super().__init__("runtime")
        self.calls: list[tuple[Any, ...]] = []
        self._fails = fails
        self._left = left

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments[:1]))
            returned = {"cudaStreamEndCapture": (self._left,), "cudaGraphInstantiate": (8,)}.get(name, ())
            failed = name == self._fails or (name == "cudaStreamEndCapture" and self._left is None)
            return self.cudaError_t.cudaErrorFake if failed else self.cudaError_t.cudaSuccess, *returned

        return call


def on_fakes(monkeypatch: pytest.MonkeyPatch, cuda: Cuda, trt: Trt) -> Any:
    """The module app.engines.gpu.cuda_device, over them."""
    bindings = ModuleType("cuda.bindings")
    monkeypatch.setattr(bindings, "runtime", cuda, raising=False)
    fakes = {"cuda": ModuleType("cuda"), "cuda.bindings": bindings, "cuda.bindings.runtime": cuda, "tensorrt": trt}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "app.engines.gpu.cuda_runtime", loaded_anew("app.engines.gpu.cuda_runtime"))
    return loaded_anew("app.engines.gpu.cuda_device")


class Work:
    """What is captured; `fails` at being enqueued."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def enqueue(self, _stream: Stream) -> None:
        if self._fails:
            raise DeviceError("TensorRT failed while running the network")


@pytest.mark.parametrize(
    ("work_fails", "fails", "left", "ended"),
    [
        (True, "", 7, [("cudaGraphDestroy", 7)]),
        (True, "", 0, []),
        (True, "", None, []),
        (False, "cudaStreamEndCapture", None, []),
        (False, "cudaGraphInstantiate", 7, [("cudaGraphInstantiate", 7), ("cudaGraphDestroy", 7)]),
    ],
)
def test_a_capture_that_fails_leaves_nothing_and_the_network_to_be_run_kernel_by_kernel(
    work_fails: bool, fails: str, left: int | None, ended: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(fails, left)
    nvidia = on_fakes(monkeypatch, cuda, Trt())
    gpu = object.__new__(nvidia.NvidiaDevice)
    with pytest.raises(CaptureFailed), gpu.capture(Work(work_fails), 16):
        pass
    assert cuda.calls == [("cudaStreamBeginCapture", 16), ("cudaStreamEndCapture", 16), *ended, ("cudaGetLastError",)]


def test_a_captured_graph_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    gpu = object.__new__(on_fakes(monkeypatch, cuda, Trt()).NvidiaDevice)
    with gpu.capture(Work(fails=False), 16) as graph:
        assert graph == 8
        assert cuda.calls[2:] == [("cudaGraphInstantiate", 7), ("cudaGraphDestroy", 7)]
    assert cuda.calls[4:] == [("cudaGraphExecDestroy", 8)]


def test_tensorrt_has_one_logger_for_good_which_keeps_no_error_of_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = Trt()
    gpu = object.__new__(on_fakes(monkeypatch, Cuda(), trt).NvidiaDevice)
    for says, reason in (("bad magic", "bad magic"), (None, "it did not say why"), ("too old", "too old")):
        trt.says = says
        with (
            pytest.raises(DeviceError, match=f"failed while deserialising the plan: {reason}"),
            gpu.network(PLAN, host_code=False),
        ):
            pass
    assert len(trt.loggers) == 3
    assert len(set(map(id, trt.loggers))) == 1


@pytest.mark.parametrize("error", [TypeError("null"), RuntimeError("null")])
def test_tensorrt_that_does_not_start_is_a_device_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = Trt()
    trt.starts = error
    gpu = object.__new__(on_fakes(monkeypatch, Cuda(), trt).NvidiaDevice)
    with pytest.raises(DeviceError, match="failed while starting TensorRT"), gpu.network(PLAN, host_code=False):
        pass


@pytest.mark.parametrize(
    ("refuses", "doing"),
    [
        ("create_execution_context", "creating an execution context"),
        ("set_optimization_profile_async", "choosing profile 1"),
        ("set_input_shape", r"setting the input's shape to \(8, 4, 4, 3\)"),
        ("set_tensor_address", "binding image"),
        ("execute_async_v3", "running the network"),
    ],
)
def test_a_context_that_tensorrt_refuses_is_a_device_error_with_its_reason(
    refuses: str, doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = Trt()
    trt.reads = LoadedPlan(trt, refuses)
    gpu = object.__new__(on_fakes(monkeypatch, Cuda(), trt).NvidiaDevice)
    addresses = {"image": 256, "logits": 512}
    with (
        pytest.raises(DeviceError, match=f"^TensorRT failed while {doing}: IExecutionContext::{refuses}: not so$"),
        gpu.network(PLAN, host_code=False) as plan,
        plan.context(1, addresses, 1024, 16) as context,
    ):
        context.enqueue(16)


CALLS = """
import numpy as np
from app.engines.gpu import cuda_device
from app.engines.interface import EngineFiles
from app.engines.gpu.tensorrt_engine import offer_tensorrt

assert list(offer_tensorrt(EngineFiles({}), 224)) == []
gpu, array = object.__new__(cuda_device.NvidiaDevice), np.zeros((3, 4), np.uint8)

class Context:
    def enqueue(self, stream):
        raise AssertionError

calls = [
    cuda_device.NvidiaDevice,
    gpu.memory(100).__enter__,
    gpu.pinned(100).__enter__,
    gpu.stream().__enter__,
    gpu.event().__enter__,
    lambda: gpu.copy_in(4096, array, 16),
    lambda: gpu.copy_out(array, 4096, 256, 16),
    gpu.capture(Context(), 16).__enter__,
    lambda: gpu.launch(1, 16),
    lambda: gpu.record(1, 16),
    lambda: gpu.wait(16, 1),
    lambda: gpu.synchronize(1),
    gpu.drain,
]
for call in calls:
    try:
        call()
    except cuda_device.DeviceError as err:
        print(err)
"""


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
@pytest.mark.parametrize(("tensorrt", "cuda"), [("10.13.0.35", "12.9.10"), ("11.4.0.106", "13.5.0")])
def test_without_a_gpu_nothing_is_offered_and_every_call_says_why(
    tensorrt: str, cuda: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """With TensorRT's real bindings and the real CUDA runtime: it takes the arguments, then finds no GPU."""
    assert pytestconfig.cache is not None
    wheels = pytestconfig.cache.mkdir("bindings-wheels")
    try:
        bindings = importable(tensorrt, wheels, tmp_path)
        runtime = fetched(f"cuda-bindings=={cuda} cuda-pathfinder==1.9.0", wheels)
    except NotToBeHad as err:
        pytest.skip(str(err))
    (bindings / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{runtime}{os.pathsep}{bindings}"}
    done = subprocess.run([sys.executable, "-c", CALLS], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "cudaErrorInsufficientDriver while opening the GPU",
        "cudaErrorInsufficientDriver while taking 100 bytes of GPU memory",
        "cudaErrorInsufficientDriver while taking 100 bytes of pinned memory",
        "cudaErrorInsufficientDriver while making a stream",
        "cudaErrorInsufficientDriver while making an event",
        "cudaErrorInsufficientDriver while copying images to the GPU",
        "cudaErrorInsufficientDriver while copying logits from the GPU",
        "cudaErrorInsufficientDriver while beginning to capture a graph",
        "cudaErrorInsufficientDriver while launching a graph",
        "cudaErrorInsufficientDriver while recording an event",
        "cudaErrorInsufficientDriver while letting a stream wait",
        "cudaErrorInsufficientDriver while waiting for the GPU",
        "cudaErrorInsufficientDriver while waiting for the GPU to come to rest",
    ], done.stderr


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_is_not_installed() -> None:
    with pytest.raises(ImportError, match="tensorrt"):
        list(offer_tensorrt(files(passport()), SIDE))


@pytest.mark.parametrize(("content", "expected"), [(PLAN, [PLAN]), (PLAN[:-1] + b"!", [])])
def test_a_plan_that_was_tampered_with_is_never_deserialised(
    content: bytes, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = fake()
    offer(gpu, monkeypatch)
    (tmp_path / "plan").write_bytes(content)
    with (tmp_path / "plan").open("rb") as plan:
        host = EngineHost({}, [passport().model_dump_json()], "build it", SIDE, 2, SOFTMAX, 0.0, False, [plan.fileno()])
        images = pictures(3)
        with nullcontext() if expected else pytest.raises(BadBundle, match="not the one that its manifest describes"):
            host.load("tensorrt", passport().precision, images)
    assert [seen for seen, _ in gpu.plans] == expected


IMAGE = Tensor("uint8", (SIDE, SIDE, 3), True)
LOGITS = Tensor("float32", (CLASSES,), False)
TENSORS = {"image": IMAGE} | dict.fromkeys(OUTPUTS, LOGITS)


@pytest.mark.parametrize(
    ("tensors", "batch_sizes"),
    [
        (TENSORS | {"image": replace(IMAGE, dtype="float32")}, (1, 8)),
        (TENSORS | {"image": replace(IMAGE, shape=(3, SIDE, SIDE))}, (1, 8)),
        (TENSORS | {"image": replace(IMAGE, is_input=False)}, (1, 8)),
        (TENSORS | {"logits_large": replace(LOGITS, dtype="DataType.HALF")}, (1, 8)),
        (TENSORS | {"logits_large": replace(LOGITS, shape=(CLASSES + 1,))}, (1, 8)),
        (TENSORS | {"features": LOGITS}, (1, 8)),
        ({"image": IMAGE, "logits": LOGITS}, (1, 8)),
        ({"image": IMAGE}, (1, 8)),
        ({"image": IMAGE} | dict.fromkeys(OUTPUTS, replace(LOGITS, shape=(-1,))), (1, 8)),
        (TENSORS, (1, 4, 8)),
        (TENSORS, (1, 4)),
        (TENSORS, (1,)),
    ],
)
def test_a_plan_that_is_not_what_its_passport_says_is_refused(
    tensors: dict[str, Tensor], batch_sizes: tuple[int, ...]
) -> None:
    gpu = fake(batch_sizes, tensors=tensors)
    engine = TensorRTEngine(gpu, TensorRTPlan(passport(batch_sizes=(1, 8)), lambda: PLAN), "python build_it.py")
    with pytest.raises(EngineRefused, match=r"is not what its manifest says.*Build it again: python build_it.py"):
        engine.load(SIDE)
    assert held(gpu) == 0


@pytest.mark.parametrize(
    ("least", "said", "fits"),
    [((1, 2), (1, 2), True), ((), (1, 8), True), ((1, 2), (), False), ((1, 1), (1, 2), False), ((1, 2), (1,), False)],
)
def test_profiles_may_take_fewer_images_if_the_passport_says_so(
    least: tuple[int, ...], said: tuple[int, ...], fits: bool
) -> None:
    gpu = fake(least_sizes=least)
    engine = TensorRTEngine(gpu, TensorRTPlan(passport(least_sizes=said), lambda: PLAN), "build it")
    with nullcontext() if fits else pytest.raises(EngineRefused, match="is not what its manifest says"):
        engine.load(SIDE)
        np.testing.assert_array_equal(engine.run(pictures(11)), network(pictures(11)))


# The network itself


def onnx(bundle: Path) -> Callable[[Images], Outputs]:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: np.stack(session.run(list(OUTPUTS), {"image": images}))


def test_it_is_offered_and_its_logits_are_the_recorded_ones(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake GPU runs the bundle's graph in ONNX Runtime on the CPU, at exactly the plan's batch sizes."""
    gpu = FakeGpu(onnx(bundle), (1, 2), 224, 1000)
    offer(gpu, monkeypatch)
    plan = TensorRTPlan(passport(side=224, resolution=224, batch_sizes=(1, 2), precision="f32"), lambda: PLAN)
    opened = open_bundle(bundle)
    graph = (bundle / "model.onnx").read_bytes()
    golden = opened.golden(224)
    opened.close()
    (engine,) = registry.offered_engines("tensorrt", EngineFiles({"f32": lambda: graph}, [plan]), 224)
    engine.load(224)
    assert (engine.name, engine.precision, engine.batch) == ("tensorrt", "f32", 4)
    assert mismatch(golden, engine.run(golden.images), "f32") is None
    images = pictures(5, 224)
    np.testing.assert_allclose(engine.run(images), onnx(bundle)(images), atol=1e-4)
    engine.close()
    assert held(gpu) == 0


def built(bundle: Path, folder: Path, precision: str, *batch_sizes: int) -> TensorRTPlan:
    """A plan of crossvit_tiny at 224 pixels, built with TensorRT."""
    from export.to_trt import main as to_trt

    copy = shutil.copytree(bundle, folder / "bundle")
    wanted = ["--resolutions", "224", "--precision", precision, "--batch-sizes", *map(str, batch_sizes)]
    assert to_trt(["--variant", "crossvit_tiny", "--bundle", str(copy), "--optimization-level", "1", *wanted]) == 0
    (plan,) = (copy / "engines").iterdir()
    manifest = PlanManifest.model_validate_json((plan / "passport.json").read_bytes())
    return TensorRTPlan(manifest, (plan / "plan").read_bytes)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_plan_gives_the_logits_of_the_graph_for_every_batch(
    precision: str, bundle: Path, tmp_path: Path
) -> None:
    (engine,) = offer_tensorrt(EngineFiles({}, [built(bundle, tmp_path, precision, 1, 8, 32)]), 224)
    engine.load(224)
    assert engine.batch == 64
    images = pictures(70, 224)
    network = onnx(bundle)
    expected = np.concatenate([network(images[start : start + 10]) for start in range(0, 70, 10)], axis=1)
    for count in range(1, 71):
        for start in (0, 70 - count):
            rows = slice(start, start + count)
            actual = engine.run(images[rows])
            assert mismatch(Golden(images[rows], expected[:, rows]), actual, engine.precision) is None
    engine.close()
    engine.close()
    with pytest.raises(DeviceError):
        engine.run(images)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("order", [(0, 1, 0, 3, 0), (3, 2, 1, 0, 3)])
def test_on_a_real_gpu_profiles_take_turns_in_both_slots(
    order: tuple[int, ...], precision: str, bundle: Path, tmp_path: Path
) -> None:
    plan = built(bundle, tmp_path, precision, 1, 8, 16, 32)
    (engine,) = offer_tensorrt(EngineFiles({}, [plan]), 224)
    assert isinstance(engine, TensorRTEngine)
    engine.load(224)
    images = pictures(32, 224)
    expected = onnx(bundle)(images)
    for profile in order:
        size = plan.manifest.batch_sizes[profile]
        for slot in engine._slots:
            actual = np.empty((len(OUTPUTS), size, slot.classes), np.float32)
            slot.submit(images[:size], size, actual)
            slot.collect()
            assert mismatch(Golden(images[:size], expected[:, :size]), actual, engine.precision) is None
    engine.close()


@pytest.mark.gpu
def test_a_real_gpu_has_its_memory_back_after_closing(bundle: Path, tmp_path: Path) -> None:
    from cuda.bindings import runtime as cuda

    def free() -> int:
        _, bytes_free, _ = cuda.cudaMemGetInfo()
        return int(bytes_free)

    plan = built(bundle, tmp_path, "fp32", 64)
    left = []
    for _ in range(4):
        (engine,) = offer_tensorrt(EngineFiles({}, [plan]), 224)
        engine.load(224)
        loaded_with = free()
        engine.close()
        assert free() > loaded_with
        left.append(free())
    assert left[-1] >= left[1] - (1 << 20)  # the first time, libraries also take what they keep
