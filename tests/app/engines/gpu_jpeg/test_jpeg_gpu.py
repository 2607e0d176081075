"""`--jpeg gpu` through the whole service: real engines and decoders, and a GPU for JPEGs that is a fake."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.decoding.decoder_memory import PixelBlock
from app.decoding.image_decoding import decode
from app.engines.engine_process.supervisor import EngineSupervisor
from app.engines.gpu_jpeg.jpeg_decoder import NAME
from app.engines.gpu_jpeg.jpeg_header import PlainJpeg, plain
from app.engines.gpu_jpeg.jpeg_pool import GpuJpegPool
from app.errors import BadImage, TooLarge
from app.inspection.inspector import Inspector
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.metrics import Metrics
from app.timing import Interval
from bundle.reader import open_bundle
from model.spec import PREPROCESSING, Preprocessing
from tests.app.engines.gpu_jpeg import fake_jpegs
from tests.app.engines.gpu_jpeg.fake_jpegs import Jpegs
from tests.support.pictures import encoded, scene
from tests.support.pixel_blocks import pixel_block
from tests.support.processes import workers
from tests.support.servers import StartServer

JPEGS = [encoded(scene(300 + seed, 280, seed), "JPEG") for seed in range(4)]
PROGRESSIVE = encoded(scene(300, 280), "JPEG", progressive=True)
PNG = encoded(scene(300, 280))


@pytest.fixture
def jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jpegs:
    (tmp_path / "fake").mkdir()
    return fake_jpegs.in_workers(tmp_path / "fake", monkeypatch)


class CountingPool(GpuJpegPool):
    """Knows what the GPU has decoded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.by_gpu: list[bytes] = []

    async def _by_gpu(self, body: bytes, steps: Preprocessing) -> tuple[PixelBlock, Interval] | None:
        decoded = await super()._by_gpu(body, steps)
        if decoded is not None:
            self.by_gpu.append(body)
        return decoded


class Served:
    """A served model with its decoders."""

    def __init__(self, model: ServedModel, pool: CountingPool) -> None:
        self.model = model
        self.pool = pool

    async def classify(self, body: bytes, resolution: int = 224) -> ModelAnswer:
        return await self.model.classify(body, resolution)

    async def assert_right(self, bodies: list[bytes], by_gpu: list[bytes], resolution: int = 224) -> None:
        """All have the answers that their pixels have, sent all at once; those in `by_gpu` were decoded there."""
        self.pool.by_gpu.clear()
        answers = await asyncio.gather(*(self.classify(body, resolution) for body in bodies))
        for body, answer in zip(bodies, answers, strict=True):
            pixels = decode(body, PREPROCESSING[resolution], 10**6)
            block = await pixel_block(self.pool, pixels[None])
            (expected,) = await self.model.classify_pixels(block, resolution)
            block.release()
            np.testing.assert_allclose(answer.outputs, expected.outputs, atol=1e-4, rtol=0)
            assert answer.decode.seconds > 0
        assert sorted(self.pool.by_gpu) == sorted(body for body in bodies if body in by_gpu)
        assert self.model.waiting == 0


@asynccontextmanager
async def serving(bundle: Path, *, seconds: float = 10) -> AsyncIterator[Served]:
    decoders = CountingPool(count=1, max_pixels=10**6, seconds=seconds, memory_bytes=1 << 30, load_seconds=60)
    async with decoders:
        model = ServedModel(
            open_bundle(bundle),
            decoders,
            Metrics(list).model(bundle.name),
            make_engine=partial(
                EngineSupervisor, engine="onnxruntime", precision="f32", run_seconds=5, load_seconds=60
            ),
            make_inspector=partial(Inspector, run_seconds=5, load_seconds=60),
            max_batch=8,
            max_queue=16,
        )
        try:
            await decoders.start()
            await model.start()
            yield Served(model, decoders)
        finally:
            await model.close()


@pytest.mark.usefixtures("jpegs")
def test_plain_jpegs_are_decoded_by_the_gpu_and_all_else_by_the_decoders(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as served:
            assert served.model.refused == []
            await served.assert_right([*JPEGS, PNG, PROGRESSIVE, *JPEGS[:2]], JPEGS)
            await served.assert_right([PNG], [])

    asyncio.run(main())


def test_what_the_gpu_does_not_decode_the_cpu_does(bundle: Path, jpegs: Jpegs) -> None:
    async def main() -> None:
        async with serving(bundle) as served:
            jpegs.do("skips all")
            await served.assert_right([*JPEGS, PNG], [])
            jpegs.do("skips")
            served.pool.by_gpu.clear()
            await asyncio.gather(*(served.classify(body) for body in JPEGS))
            assert 0 < len(served.pool.by_gpu) < len(JPEGS)
            jpegs.do("works")
            await served.assert_right(JPEGS, JPEGS)

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_errors_of_images_are_those_of_the_cpu(bundle: Path) -> None:
    no_such_table = JPEGS[0].replace(b"\x01\x22\0\x02", b"\x01\x22\3\x02")
    assert no_such_table != JPEGS[0]

    async def main() -> None:
        async with serving(bundle) as served:
            with pytest.raises(BadImage, match="the JPEG image is incomplete: "):
                await served.classify(JPEGS[0][:-500])
            with pytest.raises(TooLarge, match="1100 x 1000 pixels, over the limit of 1,000,000"):
                await served.classify(encoded(Image.new("RGB", (1100, 1000)), "JPEG"))
            outcomes = await asyncio.gather(
                served.classify(JPEGS[1]), served.classify(no_such_table), return_exceptions=True
            )
            assert isinstance(outcomes[0], ModelAnswer)
            assert isinstance(outcomes[1], BadImage)
            assert served.model.waiting == 0

    asyncio.run(main())


@pytest.mark.parametrize("word", ["crashes", "fails", "hangs"])
def test_a_gpu_that_fails_at_jpegs_costs_no_request_and_decodes_nothing_more(
    bundle: Path, jpegs: Jpegs, word: str
) -> None:
    async def main() -> None:
        async with serving(bundle, seconds=2) as served:
            (engine,) = workers(os.getpid(), "engine")
            jpegs.do(word)
            await served.assert_right([*JPEGS, PNG], [])
            jpegs.do("works")
            await served.assert_right([*JPEGS, PNG], [])
            assert served.model.refused == [(NAME, 224, "it failed while it decoded; the log says how")]
            assert workers(os.getpid(), "engine") == [engine]
            assert workers(os.getpid(), "jpeg-gpu") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("gone", "there is no GPU here that CUDA can use"),
        ("skips", "it is not as good as the CPU: it decodes 2 of 4 JPEGs"),
        ("fails", "it failed when it was tried: DeviceError: cudaErrorIllegalAddress"),
        ("crashes", "its process failed when it was tried: ended by SIGSEGV"),
    ],
)
def test_a_gpu_that_cannot_leaves_jpegs_to_the_decoders_and_says_why(
    bundle: Path, jpegs: Jpegs, word: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        jpegs.do(word)
        async with serving(bundle) as served:
            assert [(name, at) for name, at, _ in served.model.refused] == [(NAME, 224)]
            assert reason in served.model.refused[0][2]
            await served.assert_right([*JPEGS, PNG], [])

    asyncio.run(main())
    warnings = [
        record.getMessage() for record in caplog.records if "JPEGs are decoded on the CPU" in record.getMessage()
    ]
    assert len(warnings) == 1
    assert reason in warnings[0]


@pytest.mark.usefixtures("jpegs")
def test_each_resolution_decodes_to_its_own_size(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as served:
            await served.assert_right(JPEGS[:1], JPEGS, 384)
            await served.assert_right(JPEGS[:1], JPEGS, 224)

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_jpegs_that_wait_are_decoded_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    decoded = GpuJpegPool._decoded

    def counted(pool: GpuJpegPool, batch: Any, offsets: list[int]) -> Any:
        batches.append(len(batch))
        return decoded(pool, batch, offsets)

    monkeypatch.setattr(GpuJpegPool, "_decoded", counted)

    async def main() -> None:
        async with serving(bundle) as served:
            await served.assert_right(JPEGS * 3, JPEGS)

    asyncio.run(main())
    assert sum(batches) == 12
    assert max(batches) > 1


@pytest.mark.usefixtures("jpegs")
def test_headers_are_read_off_the_event_loop_and_only_where_the_gpu_decodes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(body: bytes, max_pixels: int) -> PlainJpeg | None:
        threads.append(threading.current_thread())
        return plain(body, max_pixels)

    monkeypatch.setattr("app.engines.gpu_jpeg.jpeg_pool.plain", watched)

    async def main() -> None:
        async with serving(bundle) as served:
            await served.assert_right(JPEGS[:1], JPEGS)
            assert len(threads) == 1
            assert threads[0] is not threading.main_thread()
            served.pool._give_up("tried enough")
            await served.assert_right(JPEGS[:1], [])
            assert len(threads) == 1

    asyncio.run(main())


@pytest.mark.usefixtures("jpegs")
def test_leaving_ends_the_process_and_answers_what_waits(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle):
            assert len(workers(os.getpid(), "jpeg-gpu")) == 1
        assert workers(os.getpid(), "jpeg-gpu") == []

    asyncio.run(main())


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
