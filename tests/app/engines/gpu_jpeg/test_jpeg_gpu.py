"""`--jpeg gpu` through the whole service: real engines and decoders, and a GPU for JPEGs that is a fake."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.decoding.image import decode
from app.decoding.pool import DecoderPool
from app.engines.cpu.onnxruntime_engine import OnnxRuntimeEngine
from app.engines.gpu_jpeg.jpeg_decoder import NAME, JpegDecoder
from app.engines.gpu_jpeg.jpeg_header import PlainJpeg, plain
from app.engines.process.engine_host import EngineHost
from app.errors import BadImage, EngineFailed, EngineHung, NotReady, QueueFull, TooLarge
from app.processes.shared_buffer import SharedBuffer
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.metrics import Metrics
from bundle.reader import open_bundle
from model.spec import PREPROCESSING
from tests.app.engines.gpu_jpeg import fake_jpegs
from tests.app.engines.gpu_jpeg.fake_jpegs import Jpegs
from tests.app.engines.gpu_jpeg.kernel_on_cpu import KernelOnCpu, compiled
from tests.app.pictures import encoded, scene
from tests.app.waiting import until
from tests.app.workers import children
from tests.conftest import StartServer

STEPS = PREPROCESSING[224]
JPEGS = [encoded(scene(300 + seed, 280, seed), "JPEG") for seed in range(4)]
PROGRESSIVE = encoded(scene(300, 280), "JPEG", progressive=True)
PNG = encoded(scene(300, 280))


@pytest.fixture
def jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jpegs:
    (tmp_path / "fake").mkdir()
    return fake_jpegs.in_workers(tmp_path / "fake", monkeypatch)


@asynccontextmanager
async def serving(bundle: Path, **options: Any) -> AsyncIterator[ServedModel]:
    given: dict[str, Any] = {"engine": "onnxruntime", "precision": "f32", "max_batch": 8, "max_queue": 16}
    given |= {"run_seconds": 5, "load_seconds": 60, "jpeg_pixels": 10**6} | options
    async with DecoderPool(count=1, max_pixels=10**6, seconds=10, memory_bytes=1 << 30) as decoders:
        model = ServedModel(open_bundle(bundle), decoders, Metrics(list).model(bundle.name), **given)
        try:
            await model.start()
            yield model
        finally:
            await model.close()


async def classify(model: ServedModel, body: bytes) -> ModelAnswer:
    with model.room() as (place,):
        return await model.file(place, body)


async def assert_right(model: ServedModel, bodies: list[bytes], by_engine: list[bytes]) -> None:
    """All have the answers that their pixels have, and those in `by_engine` were decoded there, all at once."""
    answers = await asyncio.gather(*(classify(model, body) for body in bodies))
    for body, answer in zip(bodies, answers, strict=True):
        with model.room() as (place,):
            expected = await model.pixels(place, decode(body, STEPS, 10**6), 224)
        np.testing.assert_allclose(answer.outputs, expected.outputs, atol=1e-4, rtol=0)
        assert (answer.decode.seconds == 0) == (body in by_engine)
    assert model.waiting == 0


@pytest.mark.usefixtures("jpegs")
def test_plain_jpegs_are_decoded_by_the_engine_and_all_else_by_the_decoders(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            assert model.refused == []
            await assert_right(model, [*JPEGS, PNG, PROGRESSIVE, *JPEGS[:2]], JPEGS)
            await assert_right(model, [PNG], [])

    asyncio.run(main())


def test_what_the_gpu_does_not_decode_the_cpu_does(bundle: Path, jpegs: Jpegs) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            jpegs.do("skips all")
            await assert_right(model, [*JPEGS, PNG], [])
            jpegs.do("skips")
            answers = await asyncio.gather(*(classify(model, body) for body in JPEGS))
            assert 0 < sum(answer.decode.seconds == 0 for answer in answers) < len(JPEGS)
            jpegs.do("works")
            await assert_right(model, JPEGS, JPEGS)

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_errors_of_images_are_those_of_the_cpu(bundle: Path) -> None:
    no_such_table = JPEGS[0].replace(b"\x01\x22\0\x02", b"\x01\x22\3\x02")
    assert no_such_table != JPEGS[0]

    async def main() -> None:
        async with serving(bundle) as model:
            with pytest.raises(BadImage, match="the JPEG image is incomplete: "):
                await classify(model, JPEGS[0][:-500])
            with pytest.raises(TooLarge, match="1100 x 1000 pixels, over the limit of 1,000,000"):
                await classify(model, encoded(Image.new("RGB", (1100, 1000)), "JPEG"))
            outcomes = await asyncio.gather(
                classify(model, JPEGS[1]), classify(model, no_such_table), return_exceptions=True
            )
            assert isinstance(outcomes[0], ModelAnswer)
            assert isinstance(outcomes[1], BadImage)
            assert model.waiting == 0

    asyncio.run(main())


def test_one_that_goes_the_other_way_needs_a_place_in_the_queue_again(bundle: Path, jpegs: Jpegs) -> None:
    async def main() -> None:
        async with serving(bundle, max_queue=2, max_batch=2) as model:
            jpegs.do("skips all slowly")
            with model.room() as (place,):
                asked = asyncio.create_task(model.file(place, JPEGS[0]))
                await until(lambda: model.waiting == 0)  # the engine has it
                with model.room(2), pytest.raises(QueueFull):
                    await asked
            assert model.waiting == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("crashes", "the engine died while it decoded some"),
        ("fails", "the engine failed while it decoded some"),
        ("hangs", "the engine hung while it decoded some"),
    ],
)
def test_an_engine_that_fails_at_jpegs_runs_again_without_them(
    bundle: Path, jpegs: Jpegs, word: str, reason: str
) -> None:
    async def main() -> None:
        async with serving(bundle, run_seconds=1) as model:
            jpegs.do(word)
            with pytest.raises((EngineFailed, EngineHung)):
                await classify(model, JPEGS[0])
            await until(lambda: model.fault is None, seconds=30)
            await assert_right(model, [*JPEGS, PNG], [])
            assert [(name, at) for name, at, _ in model.refused] == [(NAME, 224)]
            assert reason in model.refused[0][2]

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_an_engine_that_fails_at_something_else_still_decodes_jpegs(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            os.kill(children(os.getpid(), "engine")[0], 9)
            with contextlib.suppress(EngineFailed, NotReady):  # unless it runs again already
                await classify(model, PNG)
            await until(lambda: model.fault is None, seconds=30)
            assert model.refused == []
            await assert_right(model, JPEGS, JPEGS)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("gone", "there is no GPU here that CUDA can use"),
        ("skips", "it is not as good as the CPU: it decodes 2 of 4 JPEGs"),
        ("fails", "it failed when it was tried: DeviceError: cudaErrorIllegalAddress"),
        ("crashes", "the engine's process failed when it was tried: ended by SIGSEGV"),
    ],
)
def test_a_gpu_that_cannot_leaves_jpegs_to_the_decoders_and_says_why(
    bundle: Path, jpegs: Jpegs, word: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        jpegs.do(word)
        async with serving(bundle) as model:
            assert [(name, at) for name, at, _ in model.refused] == [(NAME, 224)]
            assert reason in model.refused[0][2]
            await assert_right(model, [*JPEGS, PNG], [])

    asyncio.run(main())
    warnings = [
        record.getMessage() for record in caplog.records if "JPEGs are decoded on the CPU" in record.getMessage()
    ]
    assert len(warnings) == 1
    assert reason in warnings[0]


@pytest.mark.usefixtures("jpegs")
def test_each_resolution_decodes_to_its_own_size(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            with model.room() as (place,):
                answer = await model.file(place, JPEGS[0], 384)
            assert answer.decode.seconds == 0
            with model.room() as (place,):
                expected = await model.pixels(place, decode(JPEGS[0], PREPROCESSING[384], 10**6), 384)
            np.testing.assert_allclose(answer.outputs, expected.outputs, atol=1e-4, rtol=0)

    asyncio.run(main())


def test_without_the_option_no_jpeg_goes_to_the_engine(bundle: Path, jpegs: Jpegs) -> None:
    async def main() -> None:
        async with serving(bundle, jpeg_pixels=None) as model:
            jpegs.do("crashes")
            await assert_right(model, JPEGS, [])
            assert model.refused == []

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_headers_are_read_off_the_event_loop_and_only_where_the_engine_decodes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(body: bytes, max_pixels: int) -> PlainJpeg | None:
        threads.append(threading.current_thread())
        return plain(body, max_pixels)

    monkeypatch.setattr("app.serving.served_model.plain", watched)

    async def main() -> None:
        async with serving(bundle) as model:
            await assert_right(model, JPEGS[:1], JPEGS)
            assert len(threads) == 1
            assert threads[0] is not threading.main_thread()
            model._main._decodes_jpegs = False
            await assert_right(model, JPEGS[:1], [])
            assert len(threads) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("fails for good", "it failed when it was tried: DeviceError: cudaErrorIllegalAddress while decoding JPEGs"),
        ("breaks the engine", "the engine's process failed when it was tried: RuntimeError: CUDA failure 700"),
    ],
)
def test_an_engine_that_the_trial_of_jpegs_has_broken_is_started_anew_without_them(
    bundle: Path, jpegs: Jpegs, word: str, reason: str
) -> None:
    async def main() -> None:
        jpegs.do(word)
        async with serving(bundle) as model:
            assert model.refused == [(NAME, 224, reason)]
            await assert_right(model, [*JPEGS, PNG], [])

    asyncio.run(main())


class OnGpu(OnnxRuntimeEngine):
    """Takes images where they are, as TensorRT's engine does; the fake GPU's memory is the host's."""

    def __init__(self, gpu: KernelOnCpu, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.gpu = gpu
        self.counts: list[int] = []

    def run_on_gpu(self, images: Any) -> Any:
        self.counts.append(len(images))
        shape = (len(images), images.side, images.side, 3)
        return self.run(self.gpu.memory[images.address][: images.nbytes].reshape(shape))


def test_an_engine_that_can_takes_the_images_where_they_are(bundle: Path, tmp_path: Path) -> None:
    kernels = compiled(tmp_path)
    if kernels is None:
        pytest.skip("needs g++, which compiles the GPU's kernels for the CPU")
    gpu = KernelOnCpu(kernels)
    tray = SharedBuffer()
    host = EngineHost({}, [], [], "", {}, [0, tray.file])
    engine = OnGpu(gpu, (bundle / "model.onnx").read_bytes)
    engine.load(224)
    host._engine, host._jpegs = engine, JpegDecoder(gpu, STEPS, 10**6)
    bodies = [np.frombuffer(body, np.uint8) for body in (JPEGS[0], PNG, JPEGS[1], JPEGS[2])]
    pixels = np.stack([decode(body, STEPS, 10**6) for body in (PNG, *JPEGS[:3])])
    expected = engine.run(pixels)
    tray.array(*pixels[:1].shape)[...] = pixels[:1]
    decoded, (outputs,) = host.run(pixels[:1].shape, *bodies)
    assert decoded == [0, 2, 3]
    assert engine.counts == [3]
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=0)
    decoded, (outputs,) = host.run(pixels[:0].shape, *bodies)
    np.testing.assert_allclose(outputs, expected[:, 1:], atol=1e-4, rtol=0)
    decoded, (outputs,) = host.run(pixels[:0].shape, bodies[1])
    assert (decoded, outputs.shape[1]) == ([], 0)


def test_over_http_where_there_is_no_gpu(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), "--engine", "onnxruntime", "--jpeg", "gpu")
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/classify", content=JPEGS[0])
        assert answer.status_code == 200
        assert answer.json()["timing_ms"]["decode"] > 0
        (fallback,) = client.get("/models").json()["models"][0]["fallbacks"]
        assert (fallback["engine"], fallback["resolution"]) == (NAME, 224)
        assert f'crossvit_engine_refused{{engine="{NAME}",model="{bundle.name}"}} 1' in client.get("/metrics").text
