import asyncio
import math
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.decoding.fair_queue import BACKGROUND_CALLER
from app.decoding.pool import DecoderPool
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import EngineFailed, NotReady, TooLarge, TooLate
from app.inspection.inspector import Inspector
from app.processes.shared_memory import SharedMemory
from app.serving.answer_taps import AnsweredImages
from app.serving.served_model import ModelAnswer, ServedModel
from app.telemetry.metrics import Metrics
from bundle.reader import open_bundle
from bundle.scores import best_classes
from tests.app.engines import fakes
from tests.support.pictures import encoded, scene
from tests.support.pixel_blocks import pixel_block, used_bytes
from tests.support.plans import put_plan
from tests.support.processes import workers
from tests.support.waiting import until

PNG = encoded(scene(300, 280))


@asynccontextmanager
async def serving(bundle: Path, *, shared_bytes: int = 256 << 20, **options: Any) -> AsyncIterator[ServedModel]:
    """A model of `bundle` on the real engine and decoders."""
    of_engine: dict[str, Any] = {"engine": "onnxruntime", "precision": "f32", "run_seconds": 5, "load_seconds": 60}
    of_engine |= {name: options.pop(name) for name in of_engine.keys() & options.keys()}
    given: dict[str, Any] = {
        "make_engine": partial(EngineSupervisor, **of_engine),
        "make_inspector": partial(Inspector, run_seconds=5, load_seconds=60),
        "max_batch": 8,
        "max_queue": 16,
    } | options
    async with DecoderPool(
        count=1, max_pixels=10**6, seconds=10, memory_bytes=1 << 30, shared_bytes=shared_bytes
    ) as decoders:
        model = ServedModel(open_bundle(bundle), decoders, Metrics(list).model(bundle.name), **given)
        try:
            await model.start()
            yield model
        finally:
            await model.close()


async def classify(model: ServedModel, deadline: float = math.inf, resolution: int | None = None) -> ModelAnswer:
    return await model.classify(PNG, resolution, deadline)


def test_an_image_is_answered_and_its_stages_are_in_order(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            answer = await classify(model)
            assert (answer.outputs.shape, answer.best(model.bundle.labels)) == ((3, 1000), [])
            spans = (answer.waited, answer.decode, answer.queue, answer.inference)
            moments = [moment for span in spans for moment in (span.start, span.end)]
            assert moments == sorted(moments)
            assert model.waiting == 0

    asyncio.run(main())


class BrokenTap:
    """Wants every answer and fails at it."""

    def wants(self) -> bool:
        return True

    def see(self, _: AnsweredImages) -> None:
        raise KeyError("a fault of the tap")


def test_a_fault_in_what_sees_the_answers_is_logged_and_costs_no_answer(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            model.taps = (BrokenTap(),)
            answer = await model.classify(PNG, best=3)
            assert len(answer.best(model.bundle.labels)) == 3

    asyncio.run(main())
    assert "a fault of the tap" in caplog.text


def test_copies_are_in_no_metrics_and_do_not_wait_in_the_queue(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            copy = asyncio.create_task(model.classify(PNG, caller=BACKGROUND_CALLER))
            await asyncio.sleep(0)
            assert (model.waiting, model.expected_seconds) == (0, 0.0)
            await copy
            assert (model.metrics.totals.answered.count, model.metrics.totals.batches) == (0, {})
            await classify(model)
            assert (model.metrics.totals.answered.count, list(model.metrics.totals.batches)) == (1, [1])

    asyncio.run(main())


def test_pixels_go_to_the_engine_as_they_are(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            golden = model.bundle.golden(224)
            block = await pixel_block(model._decoders, golden.images)
            answers = await model.classify_pixels(block, 224)
            for answer, logits in zip(answers, golden.logits.transpose(1, 0, 2), strict=True):
                np.testing.assert_allclose(answer.outputs, logits, atol=1e-5)

    asyncio.run(main())


def test_the_best_classes_are_those_of_the_logits_which_do_not_come_with_them(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            logits = (await classify(model)).outputs[0]
            for count in (1, 5, 1000, 2000):
                answer = await model.classify(PNG, best=count)
                assert answer.result.best == best_classes(logits, count)
                assert [label.index for label, _ in answer.best(model.bundle.labels)] == [
                    index for index, _ in best_classes(logits, count)
                ]
                assert answer.outputs.size == 0

    asyncio.run(main())


def test_images_that_want_classes_and_images_that_want_logits_share_a_call(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            logits = (await classify(model)).outputs
            ranked = [index for index, _ in best_classes(logits[0], 1000)]
            (engine,) = workers(os.getpid(), "engine")
            os.kill(engine, signal.SIGSTOP)
            wanted = [3, 0, 1, 0, 1000]
            work = [asyncio.create_task(model.classify(PNG, best=best)) for best in [1, *wanted]]
            await until(lambda: model.waiting == len(wanted) and len(model._batcher._waiting) == len(wanted))
            os.kill(engine, signal.SIGCONT)
            _, *answers = await asyncio.gather(*work)
            assert len({answer.inference for answer in answers}) == 1
            for best, answer in zip(wanted, answers, strict=True):
                assert [index for index, _ in answer.result.best] == ranked[:best]
                assert answer.outputs.shape == ((0, 1000) if best else (3, 1000))
                if not best:
                    np.testing.assert_allclose(answer.outputs, logits, atol=1e-5)

    asyncio.run(main())


def test_pixels_of_an_image_never_pass_through_this_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = 0
    array = SharedMemory.array

    def watched(memory: SharedMemory, offset: int, *shape: int) -> Any:
        nonlocal touched
        touched += 1
        return array(memory, offset, *shape)

    async def main() -> None:
        async with serving(bundle) as model:
            monkeypatch.setattr(SharedMemory, "array", watched)
            assert (await classify(model)).outputs.shape == (3, 1000)
            assert touched == 0
            await model.self_test()  # whose images are of this process
            assert touched

    asyncio.run(main())


def test_a_resolution_is_loaded_once_even_if_those_who_asked_have_gone(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(model.load(384), 0.03)
            assert model.loaded == [224]
            assert len(workers(os.getpid(), "engine")) <= 2
            await model.load(384)
            assert model.loaded == [224, 384]
            assert len(workers(os.getpid(), "engine crossvit_tiny 384")) == 1
            assert (await classify(model, resolution=384)).resolution == 384
            await model.self_test()

    asyncio.run(main())


def test_a_load_that_failed_is_tried_again(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            loading = asyncio.create_task(model.load(384))
            await until(lambda: workers(os.getpid(), "engine crossvit_tiny 384"))
            os.kill(workers(os.getpid(), "engine crossvit_tiny 384")[0], signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await loading
            assert model.loaded == [224]
            await model.load(384)
            assert model.loaded == [224, 384]

    asyncio.run(main())


def test_a_deadline_ends_the_work_and_frees_the_place(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            with pytest.raises(TooLate):
                await classify(model, deadline=time.perf_counter() + 0.002)
            with pytest.raises(TooLate):
                await classify(model, deadline=time.perf_counter() - 1)
            assert model.waiting == 0
            assert model.metrics.totals.failed.count == 2
            await classify(model)

    asyncio.run(main())


def test_while_its_engine_is_started_again_it_takes_nothing_and_loses_nothing(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle, max_batch=2) as model:
            (engine,) = workers(os.getpid(), "engine")
            os.kill(engine, signal.SIGSTOP)
            work = [asyncio.create_task(classify(model)) for _ in range(6)]
            await until(lambda: model.waiting == 5)  # the first one decoded is with the engine
            os.kill(engine, signal.SIGKILL)
            await until(lambda: model.fault)
            with pytest.raises(NotReady, match="its engine is being started again"):
                model.check()
            results = await asyncio.gather(*work, return_exceptions=True)
            assert [type(result) for result in results].count(EngineFailed) == 1
            assert [type(result) for result in results].count(ModelAnswer) == 5
            assert model.fault is None

    asyncio.run(main())


def test_closing_waits_for_those_who_use_it(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            with model.in_use():
                work = asyncio.create_task(classify(model))
                await asyncio.sleep(0)
                closing = asyncio.create_task(model.close())
                assert isinstance(await work, ModelAnswer)
                assert not closing.done()
            await closing
            await model.close()  # again is a no-op
            assert workers(os.getpid(), "engine") == []

    asyncio.run(main())


def test_a_resolution_whose_engine_is_started_again_does_not_hold_up_the_others(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            await model.load(384)
            os.kill(workers(os.getpid(), "engine crossvit_tiny 384")[0], signal.SIGKILL)
            await until(lambda: model.loaded == [224])
            with pytest.raises(NotReady, match="crossvit_tiny at 384: its engine is being started again"):
                await classify(model, resolution=384)
            await classify(model)
            assert model.loaded == [224]  # the other one is still being started
            await until(lambda: model.loaded == [224, 384])
            await classify(model, resolution=384)

    asyncio.run(main())


def test_unset_limits_are_what_the_engine_is_best_at_and_eight_batches(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle, max_batch=0, max_queue=0) as model:
            assert 1 <= model.batch() <= 8
            assert model.capacity == 64
            with pytest.raises(TooLarge, match="65 images are more than the queue holds, which is 64"):
                model.check(65)
        async with serving(bundle, max_batch=20, max_queue=0) as model:
            assert (model.batch(), model.capacity) == (20, 160)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("max_queue", "max_batch", "max_bytes", "images"),
    [(0, 8, 512 << 20, 64), (0, 16, 512 << 20, 128), (500, 8, 512 << 20, 500), (500, 8, 64 << 20, 97), (0, 8, 1, 1)],
)
def test_images_that_wait_are_bounded_by_their_number_and_by_their_bytes_at_the_largest_resolution(
    bundle: Path, max_queue: int, max_batch: int, max_bytes: int, images: int
) -> None:
    async def main() -> None:
        more = {"max_queue": max_queue, "max_batch": max_batch, "max_queue_bytes": max_bytes}
        async with serving(bundle, **more) as model:
            assert model.capacity == images
            side = max(steps.crop for steps in model.bundle.manifest.preprocessing.values())
            assert images == 1 or images * 3 * side**2 <= max_bytes

    asyncio.run(main())


def test_a_model_with_large_batches_queues_as_many_images_as_fit_its_largest_resolution(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle, max_batch=1024, max_queue=0) as model:
            largest = max(steps.crop for steps in model.bundle.manifest.preprocessing.values())
            assert model.capacity == (512 << 20) // (3 * largest**2) < 8 * 1024
            with pytest.raises(TooLarge, match=f"more than the queue holds, which is {model.capacity}"):
                model.check(model.capacity + 1)

    asyncio.run(main())


def test_each_resolution_has_what_serves_it_best(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is a fake, since there is none here."""

    async def main() -> None:
        gpu = fakes.in_workers(tmp_path, monkeypatch)
        copied = Path(shutil.copytree(bundle, tmp_path / "b"))
        put_plan(copied)
        async with serving(copied, engine="auto", precision="auto", max_batch=0, max_queue=0) as model:
            await model.load(384)
            assert (model.engine(), model.batch(), model.capacity) == (("tensorrt", "fp16"), 32, 256)
            assert (model.engine(384), model.batch(384)) == (("onnxruntime-cuda", "f32"), 16)
            ((engine, resolution, reason),) = model.refused
            assert (engine, resolution) == ("tensorrt", 384)
            assert "there is no plan for 384" in reason
            assert (await classify(model, resolution=384)).resolution == 384
            gpu.does(cuda="works")
            os.kill(workers(os.getpid(), "engine b")[0], signal.SIGKILL)
            await until(lambda: model.fault)
            await until(lambda: model.fault is None)
            assert (model.engine(), model.capacity) == (("onnxruntime-cuda", "f32"), 128)
            assert [(engine, at) for engine, at, _ in model.refused] == [("tensorrt", 224), ("tensorrt", 384)]

    asyncio.run(main())


@pytest.mark.parametrize("stage", ["waits for a decoder", "is decoded", "waits for the engine", "runs"])
def test_a_request_that_is_given_up_at_any_stage_leaves_no_memory_taken(bundle: Path, stage: str) -> None:
    async def main() -> None:
        async with serving(bundle) as model:
            await classify(model)  # every process is ready
            role = "decoder" if "decode" in stage else "engine"
            (stopped,) = workers(os.getpid(), role)
            os.kill(stopped, signal.SIGSTOP)
            work = [asyncio.create_task(classify(model)) for _ in range(4)]
            decoders = model._decoders
            if role == "decoder":
                await until(lambda: used_bytes(decoders) > 150_000)  # room for one image, of which all others wait
            else:
                await until(lambda: len(model._batcher._waiting) == 3 and len(model._batcher._running) == 1)
                assert used_bytes(decoders) >= 4 * 150_528
            given_up = work[:1] if stage in ("is decoded", "runs") else work[1:]
            for task in given_up:
                task.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            os.kill(stopped, signal.SIGCONT)
            kept = [task for task in work if task not in given_up]
            assert [type(answer) for answer in await asyncio.gather(*kept)] == [ModelAnswer] * len(kept)
            await until(lambda: used_bytes(decoders) == 0)
            (memory,) = [memory._blocks for memory in decoders._memories]
            assert memory._gaps == [(0, memory.memory.size)]
            await classify(model)

    asyncio.run(main())


def test_a_full_memory_delays_decoding_and_loses_nothing(bundle: Path) -> None:
    async def main() -> None:
        async with serving(bundle, shared_bytes=2 * 224 * 224 * 3 + len(PNG) + 8192) as model:  # two images and a body
            expected = (await classify(model)).outputs
            (engine,) = workers(os.getpid(), "engine")
            os.kill(engine, signal.SIGSTOP)
            work = [asyncio.create_task(classify(model)) for _ in range(10)]
            await until(lambda: used_bytes(model._decoders) > 300_000)
            await asyncio.sleep(0.2)
            assert len(model._batcher._waiting) + len(model._batcher._running) <= 2
            os.kill(engine, signal.SIGCONT)
            for answer in await asyncio.gather(*work):
                np.testing.assert_allclose(answer.outputs, expected, atol=1e-5)
            assert used_bytes(model._decoders) == 0

    asyncio.run(main())
