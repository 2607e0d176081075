"""ONNX Runtime's engines for GPUs.

Sessions, buckets and buffers are driven on the CPU here, by the same calls; the CUDA provider itself only in the tests
that are marked gpu.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from app.engines import compiled_cache
from app.engines.cpu import onnxruntime_engine
from app.engines.gpu import cuda_libraries, onnxruntime_cuda_engine
from app.engines.gpu.bound_session import BatchShape, BoundSession, Providers, nodes_elsewhere, open_session
from app.engines.gpu.onnxruntime_cuda_engine import (
    OnnxRuntimeCudaEngine,
    fitting,
    offer_onnxruntime_cuda,
    offer_onnxruntime_tensorrt,
)
from app.engines.interface import EngineFiles, EngineRefused
from bundle.golden import mismatch
from bundle.reader import open_bundle
from bundle.tensors import Images, Outputs

CPU: Providers = [("CPUExecutionProvider", {})]
SIDE = 64  # the least that the graph takes


def pictures(count: int, side: int = SIDE) -> Images:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), np.uint8)


def on_cpu(
    bundle: Path, sizes: tuple[int, ...], providers: Callable[[bytes, BatchShape, bool], Providers]
) -> OnnxRuntimeCudaEngine:
    return OnnxRuntimeCudaEngine(
        "some", "f32", (bundle / "model.onnx").read_bytes, providers, device="cpu", sizes=sizes
    )


def expected(bundle: Path, images: Images) -> Outputs:
    """What the plain engine of the CPU answers."""
    (engine,) = onnxruntime_engine.offer_onnxruntime(
        EngineFiles({"f32": (bundle / "model.onnx").read_bytes}), images.shape[1]
    )
    engine.load(images.shape[1])
    return engine.run(images)


@pytest.fixture(
    scope="module", params=[(1, 4), (4,)]
)  # which are cut by what they take, and which are always filled up
def engine(bundle: Path, request: pytest.FixtureRequest) -> OnnxRuntimeCudaEngine:
    made = on_cpu(bundle, request.param, lambda *_: CPU)
    made.load(SIDE)
    return made


def test_any_number_of_images_comes_back_in_order(bundle: Path, engine: OnnxRuntimeCudaEngine) -> None:
    images = pictures(11)
    logits = expected(bundle, images)
    for count in (11, 1, 3, 4, 5, 8):  # what a larger batch leaves in the buffers must not be seen
        outputs = engine.run(images[:count])
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, logits[:, :count], atol=1e-5)
        np.testing.assert_allclose(engine.run(images[-count:]), logits[:, -count:], atol=1e-5)


def test_images_need_not_be_contiguous(bundle: Path, engine: OnnxRuntimeCudaEngine) -> None:
    images = pictures(8)[::2]
    np.testing.assert_allclose(engine.run(images), expected(bundle, images), atol=1e-5)


def test_outputs_are_unchanged_by_the_next_run(engine: OnnxRuntimeCudaEngine) -> None:
    images = pictures(4)
    first = engine.run(images)
    kept = first.copy()
    engine.run(images[::-1])
    assert np.array_equal(first, kept)


def test_the_largest_bucket_is_the_batch_to_ask_for(engine: OnnxRuntimeCudaEngine) -> None:
    assert engine.batch == 4


def test_loading_again_opens_no_session(bundle: Path) -> None:
    shapes = []

    def providers(_graph: bytes, shape: BatchShape, _captured: bool) -> Providers:
        shapes.append(shape)
        return CPU

    engine = on_cpu(bundle, (1,), providers)
    engine.load(SIDE)
    opened = len(shapes)
    engine.load(SIDE)
    assert len(shapes) == opened > 0
    assert set(shapes) == {BatchShape(1, SIDE)}


def test_a_closed_engine_runs_nothing_more(bundle: Path) -> None:
    engine = on_cpu(bundle, (1,), lambda *_: CPU)
    engine.load(SIDE)
    engine.close()
    engine.close()
    with pytest.raises(KeyError):
        engine.run(pictures(1))


@pytest.mark.parametrize(("side", "sizes"), [(64, [1, 8, 32, 64]), (224, [1, 8, 32, 64]), (384, [1, 8, 32]),
                                             (480, [1, 8, 32]), (768, [1, 8]), (9999, [1])])  # fmt: skip
def test_larger_images_come_in_smaller_batches(side: int, sizes: list[int]) -> None:
    assert fitting(onnxruntime_cuda_engine.SIZES, side) == sizes


def short_of_memory(at: int) -> Callable[[bytes, BatchShape, bool], Providers]:
    """Providers of a GPU whose memory is not enough for batches of `at`; a fake, for the CPU's always is."""

    def providers(_graph: bytes, shape: BatchShape, _captured: bool) -> Providers:
        if shape.images == at:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1073741824")
        return CPU

    return providers


def test_a_batch_size_for_which_there_is_no_memory_is_not_used(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = on_cpu(bundle, (1, 2, 4), short_of_memory(4))
    engine.load(SIDE)
    assert engine.batch == 2
    assert "no memory for batches of 4 at 64" in caplog.text
    images = pictures(5)
    np.testing.assert_allclose(engine.run(images), expected(bundle, images), atol=1e-5)


def test_without_memory_for_one_image_loading_fails(bundle: Path) -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        on_cpu(bundle, (1, 2), short_of_memory(1)).load(SIDE)


def test_a_graph_that_the_provider_leaves_to_the_cpu_is_refused(bundle: Path) -> None:
    # Azure's provider runs nothing of an ordinary graph, which ONNX Runtime then gives to the CPU without a word.
    azure = [("AzureExecutionProvider", dict[str, str]())]
    if azure[0][0] not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no such provider")
    with pytest.raises(
        EngineRefused, match=r"puts \d+ nodes of the graph on the CPU, such as \w+ .*newer onnxruntime-gpu"
    ):
        open_session((bundle / "model.onnx").read_bytes(), BatchShape(1, SIDE), azure)


def test_nodes_that_are_elsewhere_are_named(bundle: Path) -> None:
    session = open_session((bundle / "model.onnx").read_bytes(), BatchShape(1, SIDE), CPU)
    assert nodes_elsewhere(session, ["CPUExecutionProvider"]) == []
    elsewhere = nodes_elsewhere(session, ["CUDAExecutionProvider"])
    assert any(node.startswith("LayerNormalization ") for node in elsewhere)


def test_fixed_shapes_leave_no_arithmetic_of_shapes(bundle: Path) -> None:
    """What is left of it would run on the CPU, and a CUDA graph could not be captured."""
    session = open_session((bundle / "model.onnx").read_bytes(), BatchShape(8, 224), CPU)
    kinds = {node.partition(" ")[0] for node in nodes_elsewhere(session, [])}
    assert not kinds & {"Shape", "Range", "Pow", "Squeeze", "ConstantOfShape", "Equal", "Where"}
    assert "MatMul" in kinds


class Capturing:
    """What is asked of ONNX Runtime to be captured; a fake, for the CPU captures nothing.

    The first run of a session that is, of at least `fails_from` images, fails, and all after it. With `short_of_memory`
    an uncaptured one of these does, too.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fails_from: int = 1, *, message: str = "", short_of_memory: bool = False
    ) -> None:
        self.runs: list[tuple[int, bool]] = []  # images, captured
        self.opened: list[tuple[int, bool]] = []
        run = BoundSession.run

        def spied(bucket: BoundSession, images: Images, outputs: Outputs, *, captured: bool = True) -> None:
            self.runs.append((len(images), captured))
            run(bucket, images, outputs, captured=captured)
            size, in_session = self.opened[-1]
            if message and size >= fails_from and ((captured and in_session) or (short_of_memory and not in_session)):
                raise RuntimeError(message)

        monkeypatch.setattr(BoundSession, "run", spied)

    def providers(self, _graph: bytes, shape: BatchShape, captured: bool) -> Providers:
        self.opened.append((shape.images, captured))
        return CPU


def test_a_session_that_cannot_capture_runs_without_a_cuda_graph(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def providers(_graph: bytes, _shape: BatchShape, captured: bool) -> Providers:
        if captured:
            raise RuntimeError("This session cannot use the graph capture feature")
        return CPU

    engine = on_cpu(bundle, (2,), providers)
    engine.load(SIDE)
    assert "batches of 2 run without a CUDA graph: This session cannot" in caplog.text
    np.testing.assert_allclose(engine.run(pictures(3)), expected(bundle, pictures(3)), atol=1e-5)


@pytest.mark.parametrize("message", ["cudaErrorStreamCaptureUnsupported", "Failed to allocate memory while capturing"])
def test_a_capture_that_fails_in_the_first_runs_is_done_without(
    bundle: Path, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capturing = Capturing(monkeypatch, 2, message=message)
    engine = on_cpu(bundle, (1, 2), capturing.providers)
    engine.load(SIDE)
    assert capturing.opened == [(1, True), (2, True), (2, False)]
    assert engine.batch == 2
    assert f"batches of 2 run without a CUDA graph: {message}" in caplog.text
    assert "batches of 1 " not in caplog.text
    np.testing.assert_allclose(engine.run(pictures(5)), expected(bundle, pictures(5)), atol=1e-5)


def test_a_batch_is_done_without_only_if_there_is_no_memory_without_a_graph_either(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capturing = Capturing(monkeypatch, 2, message="Failed to allocate memory", short_of_memory=True)
    engine = on_cpu(bundle, (1, 2), capturing.providers)
    engine.load(SIDE)
    assert (engine.batch, capturing.opened[1:]) == (1, [(2, True), (2, False)])
    assert "no memory for batches of 2 at 64: Failed to allocate memory" in caplog.text


def test_what_fails_without_a_graph_too_is_raised(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = Capturing(monkeypatch, 2, message="cudaErrorIllegalAddress", short_of_memory=True)
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
        on_cpu(bundle, (1, 2), capturing.providers).load(SIDE)


def test_what_is_refused_is_not_tried_without_a_graph(bundle: Path) -> None:
    asked = []

    def providers(_graph: bytes, _shape: BatchShape, captured: bool) -> Providers:
        asked.append(captured)
        raise EngineRefused("there is no place for plans")

    with pytest.raises(EngineRefused, match="no place"):
        on_cpu(bundle, (1,), providers).load(SIDE)
    assert asked == [True]


def test_memory_is_taken_before_a_graph_is_captured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = Capturing(monkeypatch)
    engine = on_cpu(bundle, (1,), capturing.providers)
    engine.load(SIDE)
    captured = [captured for _, captured in capturing.runs]
    assert captured[:3] == [False, False, True]
    assert all(captured[2:])


@pytest.mark.parametrize(("captured", "graph"), [(True, None), (False, "-1")])
def test_onnx_runtime_is_told_what_not_to_capture(
    bundle: Path, captured: bool, graph: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session((bundle / "model.onnx").read_bytes(), BatchShape(1, SIDE), CPU)
    bucket = BoundSession(session, BatchShape(1, SIDE), "cpu")
    run, told = session.run_with_iobinding, []

    def spied(binding: onnxruntime.IOBinding, options: onnxruntime.RunOptions | None = None) -> None:
        told.append(options and options.get_run_config_entry("gpu_graph_id"))
        run(binding, options)

    monkeypatch.setattr(session, "run_with_iobinding", spied)
    outputs = np.zeros((3, 1, bucket.classes), np.float32)
    bucket.run(pictures(1), outputs, captured=captured)
    assert told == [graph]
    np.testing.assert_allclose(outputs, expected(bundle, pictures(1)), atol=1e-5)


def built_for_gpus(monkeypatch: pytest.MonkeyPatch, gpu: str | None) -> None:
    """As with the package onnxruntime-gpu, on a machine that has `gpu`."""
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime_cuda_engine, "gpu_name", lambda: gpu)


def without_cuda(monkeypatch: pytest.MonkeyPatch, gpu: str | None, *packages: str) -> None:
    """As with the package onnxruntime, on a machine that has `gpu`; pip knows of `packages`."""

    def version(package: str) -> str:
        if package not in packages:
            raise metadata.PackageNotFoundError(package)
        return "1.31.1"

    built_for_gpus(monkeypatch, gpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime_cuda_engine, "version", version)


@pytest.mark.parametrize("offer", [offer_onnxruntime_cuda, offer_onnxruntime_tensorrt])
@pytest.mark.parametrize(
    ("gpu", "packages"),
    [
        ("NVIDIA H100", ["onnxruntime"]),
        (None, ["onnxruntime", "onnxruntime-gpu"]),
    ],
)
def test_nothing_is_offered_without_the_provider(
    offer: Callable[[EngineFiles, int], object], gpu: str | None, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cuda(monkeypatch, gpu, *packages)
    assert list(offer(EngineFiles({"f32": bytes}), 224)) == []  # type: ignore[call-overload]


@pytest.mark.parametrize("offer", [offer_onnxruntime_cuda, offer_onnxruntime_tensorrt])
def test_a_package_that_hides_the_one_for_gpus_is_refused_with_what_to_do(
    offer: Callable[[EngineFiles, int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cuda(monkeypatch, "NVIDIA H100", "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(
        EngineRefused, match="over onnxruntime-gpu: pip uninstall onnxruntime, then pip install --force-"
    ):
        list(offer(EngineFiles({"f32": bytes}), 224))  # type: ignore[call-overload]


def test_only_the_package_is_looked_up() -> None:
    assert onnxruntime_cuda_engine._is_installed("numpy")
    assert not onnxruntime_cuda_engine._is_installed("no-such-package-as-this")


@pytest.mark.parametrize("offer", [offer_onnxruntime_cuda, offer_onnxruntime_tensorrt])
def test_nothing_is_offered_without_a_gpu(
    offer: Callable[[EngineFiles, int], object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    built_for_gpus(monkeypatch, None)
    assert list(offer(EngineFiles({"f32": bytes}), 224)) == []  # type: ignore[call-overload]
    assert capfd.readouterr() == ("", "")


def test_a_gpu_without_cuda_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    built_for_gpus(monkeypatch, "NVIDIA H100")
    monkeypatch.setattr(onnxruntime, "cuda_version", "99.1")  # one that is on no machine
    with pytest.raises(EngineRefused) as refused:
        list(offer_onnxruntime_cuda(EngineFiles({"f32": bytes}), 224))
    assert "not CUDA 99 and cuDNN 9" in str(refused.value)
    assert "libcudart.so.99" in str(refused.value)
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_gpu_without_tensorrt_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_gpus(monkeypatch, "NVIDIA H100")
    monkeypatch.setattr(onnxruntime_cuda_engine, "load_cuda", lambda: None)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(cuda_libraries, "_TENSORRT_LIBRARIES", ("libnvinfer.so.0",))  # one that is on no machine
    with pytest.raises(
        EngineRefused, match=r"not TensorRT 10, .*libnvinfer\.so\.0.*pip install 'tensorrt-cu13>=10,<11'"
    ):
        list(offer_onnxruntime_tensorrt(EngineFiles({"f32": bytes, "fp16": bytes}), 224))


def test_tensorrt_is_not_given_what_it_would_round_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_gpus(monkeypatch, "NVIDIA H100")
    with pytest.raises(
        EngineRefused, match=r"export one with `python export/to_onnx.py --variant .* --precision fp16`"
    ):
        list(offer_onnxruntime_tensorrt(EngineFiles({"f32": bytes}), 224))


def test_tensorrt_is_found_in_its_package_and_says_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is a fake: any other under its name, that is asked for nothing."""
    opened = []

    class Library:
        def __init__(self, path: str) -> None:
            opened.append(path)

        def getInferLibVersion(self) -> int:  # noqa: N802 - TensorRT's name
            return 101601

    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "libnvinfer.so.10").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert cuda_libraries.load_tensorrt() == "10.16.1"
    assert opened == [str(package / "libnvinfer.so.10"), "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]


def test_an_engine_for_each_precision_of_the_bundle_half_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    built_for_gpus(monkeypatch, "NVIDIA H100")
    monkeypatch.setattr(onnxruntime_cuda_engine, "load_cuda", lambda: None)
    monkeypatch.setattr(onnxruntime_cuda_engine, "load_tensorrt", lambda: "10.16.1")
    files = EngineFiles({"f32": bytes, "bf16": bytes, "fp16": bytes})
    found = list(offer_onnxruntime_cuda(files, 224))
    assert [(engine.name, engine.precision) for engine in found] == [
        ("onnxruntime-cuda", precision) for precision in ("fp16", "bf16", "f32")
    ]
    assert [(engine.name, engine.precision) for engine in offer_onnxruntime_tensorrt(files, 224)] == [
        ("onnxruntime-tensorrt", precision) for precision in ("fp16", "bf16")
    ]


@pytest.mark.parametrize(("precision", "tf32"), [("f32", "False"), ("fp16", "True"), ("bf16", "True")])
@pytest.mark.parametrize("captured", [True, False])
def test_float32_is_not_rounded_to_tf32(precision: str, tf32: str, captured: bool) -> None:
    ((name, options),) = onnxruntime_cuda_engine._on_cuda(precision, b"", BatchShape(1, 224), captured)
    assert name == "CUDAExecutionProvider"
    assert options["use_tf32"] == tf32
    assert options["enable_cuda_graph"] == str(captured)


def test_each_graph_machine_and_shape_has_a_folder_for_its_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def folder(graph: bytes, machine: str, shape: BatchShape) -> str:
        (name, options), (fallback, _) = onnxruntime_cuda_engine._on_tensorrt("fp16", machine, graph, shape, True)
        assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        assert Path(options["trt_engine_cache_path"]).is_dir()
        return options["trt_engine_cache_path"]

    folders = [
        folder(graph, machine, shape)
        for graph in (b"one", b"another")
        for machine in ("H100-trt10.13.0", "H100-trt10.16.1")
        for shape in (BatchShape(1, 224), BatchShape(8, 224), BatchShape(1, 384))
    ]
    assert len(set(folders)) == len(folders)
    assert folder(b"one", "H100-trt10.13.0", BatchShape(1, 224)) == folders[0]


def test_tensorrt_captures_the_graphs_and_not_cuda_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (_, tensorrt), (_, cuda) = onnxruntime_cuda_engine._on_tensorrt("bf16", "H100", b"graph", BatchShape(1, 224), True)
    assert (tensorrt["trt_cuda_graph_enable"], cuda["enable_cuda_graph"]) == ("True", "False")
    assert (tensorrt["trt_fp16_enable"], tensorrt["trt_bf16_enable"]) == ("False", "True")


def test_plans_are_kept_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not there yet"))
    folder = compiled_cache.private_folder("plans", "ort-tensorrt", "graph", "8x224")
    assert folder == tmp_path / "not there yet" / "crossvit" / "ort-tensorrt" / "graph" / "8x224"
    for made in (folder, folder.parent, folder.parent.parent):
        assert made.stat().st_mode & 0o777 == 0o700


def test_without_a_cache_folder_set_plans_are_kept_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiled_cache.private_folder("plans", "ort-tensorrt", "graph").is_relative_to(
        tmp_path / ".cache" / "crossvit"
    )


def test_plans_of_a_folder_that_others_may_write_to_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled_cache.private_folder("plans", "ort-tensorrt", "graph")
    folder.chmod(0o770)
    with pytest.raises(EngineRefused, match="plans are code"):
        compiled_cache.private_folder("plans", "ort-tensorrt", "graph")


def test_plans_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled_cache.private_folder("plans", "ort-tensorrt", "graph")
    somebody_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    with pytest.raises(EngineRefused, match="another user's"):
        compiled_cache.private_folder("plans", "ort-tensorrt", "graph")


def test_a_link_is_no_folder_for_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    compiled_cache.private_folder("plans", "ort-tensorrt")
    (tmp_path / "crossvit" / "ort-tensorrt" / "graph").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineRefused):
        compiled_cache.private_folder("plans", "ort-tensorrt", "graph")


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineRefused, match="XDG_CACHE_HOME"):
        compiled_cache.private_folder("plans", "ort-tensorrt", "graph")


class FakeDriver:
    """NVIDIA's driver library: `codes` are what its calls return, in order; a fake, for the real one needs a GPU."""

    def __init__(self, *codes: int) -> None:
        self._codes = list(codes)

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
        assert flags == 0
        return self._codes.pop(0)

    def cuDeviceGet(self, _device: object, index: int) -> int:  # noqa: N802
        assert index == 0
        return self._codes.pop(0)

    def cuDeviceGetName(self, name: "ctypes.Array[ctypes.c_char]", size: int, _device: object) -> int:  # noqa: N802
        name.value = b"NVIDIA H100 80GB HBM3"[: size - 1]
        return self._codes.pop(0)


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeDriver(0, 0, 0))
    assert cuda_libraries.gpu_name() == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("codes", [(100,), (34,), (0, 101)])
def test_a_driver_without_a_gpu_is_as_none(codes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeDriver(*codes))
    assert cuda_libraries.gpu_name() is None


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_libraries.gpu_name() is None


def test_a_driver_that_does_not_start_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeDriver(803))
    with pytest.raises(EngineRefused, match="CUDA error 803"):
        cuda_libraries.gpu_name()


def graphs(bundle: Path) -> EngineFiles:
    """The bundle's graph, and those in half precision made of it."""
    import onnx_ir

    from export.graphs.fused_attention import fuse_attention
    from export.graphs.half_precision import to_half

    found = {"f32": (bundle / "model.onnx").read_bytes}
    for precision in ("fp16", "bf16"):
        model = onnx_ir.load(bundle / "model.onnx")
        fuse_attention(model)
        to_half(model, precision)
        serialised = bytes(onnx_ir.to_proto(model).SerializeToString())
        found[precision] = lambda serialised=serialised: serialised  # type: ignore[misc]
    return EngineFiles(found)


def needs(provider: str) -> None:
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"the ONNX Runtime installed here has no {provider}: it takes onnxruntime-gpu")


@pytest.mark.gpu
@pytest.mark.parametrize("resolution", [224, 384, 480])
def test_a_real_gpu_gives_the_golden_logits_in_every_precision(
    bundle: Path, resolution: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No node may be on the CPU, which loading refuses, and every bucket is captured as a CUDA graph."""
    needs("CUDAExecutionProvider")
    opened = open_bundle(bundle)
    golden = opened.golden(resolution)
    opened.close()
    found = list(offer_onnxruntime_cuda(graphs(bundle), resolution))
    assert [engine.precision for engine in found] == ["fp16", "bf16", "f32"]
    with caplog.at_level(logging.WARNING):
        for engine in found:
            engine.load(golden.images.shape[1])
            assert mismatch(golden, engine.run(golden.images), engine.precision) is None
            engine.close()
    assert caplog.text == ""


@pytest.mark.gpu
def test_a_real_gpu_gives_the_logits_of_the_cpu_for_every_batch(bundle: Path) -> None:
    needs("CUDAExecutionProvider")
    images = pictures(70, 224)
    logits = expected(bundle, images)
    (engine,) = (
        engine for engine in offer_onnxruntime_cuda(EngineFiles({"f32": (bundle / "model.onnx").read_bytes}), 224)
    )
    engine.load(224)
    assert engine.batch == 64
    tolerance = 1e-3 * max(1.0, float(np.abs(logits).max()))
    for count in range(1, 71):
        np.testing.assert_allclose(engine.run(images[:count]), logits[:, :count], atol=tolerance)
        np.testing.assert_allclose(engine.run(images[-count:]), logits[:, -count:], atol=tolerance)
    engine.close()


@pytest.mark.gpu
def test_a_real_gpu_with_tensorrt_keeps_its_plans(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("TensorrtExecutionProvider")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = open_bundle(bundle)
    golden = opened.golden(224)
    opened.close()
    try:
        found = list(offer_onnxruntime_tensorrt(graphs(bundle), 224))
    except EngineRefused as err:
        pytest.skip(str(err))
    engine = found[0]
    engine.load(224)
    assert mismatch(golden, engine.run(golden.images), engine.precision) is None
    engine.close()
    plans = sorted(tmp_path.rglob("*.engine"))
    assert len({plan.parent for plan in plans}) == len(onnxruntime_cuda_engine.SIZES)
    built = [plan.stat().st_mtime_ns for plan in plans]
    (again, *_) = offer_onnxruntime_tensorrt(graphs(bundle), 224)
    again.load(224)
    again.close()
    assert [plan.stat().st_mtime_ns for plan in sorted(tmp_path.rglob("*.engine"))] == built
