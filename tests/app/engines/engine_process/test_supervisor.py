"""The real engine in its process, with real faults."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.decoding.decoder_memory import PixelLocation
from app.engines.engine_process.launch import EngineInput
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import EngineFailed, EngineHung, NoEngine, NotReady, WrongAnswers
from bundle.bundle_errors import BadBundle
from bundle.golden import Golden
from bundle.reader import Bundle, open_bundle
from tests.app.engines import fakes
from tests.support import reference_network
from tests.support.plans import put_plan
from tests.support.processes import workers
from tests.support.waiting import until

GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")


@asynccontextmanager
async def running(bundle: Bundle, **options: Any) -> AsyncIterator[tuple[EngineSupervisor, list[str]]]:
    restarts: list[str] = []
    given: dict[str, Any] = {
        "engine": "onnxruntime",
        "precision": "f32",
        "run_seconds": 5,
        "load_seconds": 60,
    } | options
    engine = EngineSupervisor(bundle, 224, **given, on_restart=restarts.append)
    try:
        await engine.start()
        yield engine, restarts
    finally:
        await engine.close()


def pid() -> int:
    (found,) = workers(os.getpid(), "engine")
    return found


async def assert_right(engine: EngineSupervisor) -> None:
    outputs = await engine.run(reference_network.images(224))
    np.testing.assert_allclose(outputs[0], GOLDEN["logits_224"], atol=1e-5, rtol=0)


def test_it_gives_the_reference_logits_and_leaves_no_process(bundle: Path) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle)) as (engine, restarts):
            assert (engine.name, engine.precision, engine.fault) == ("onnxruntime", "f32", None)
            await assert_right(engine)
            await engine.self_test()
        assert restarts == []
        assert workers(os.getpid(), "engine") == []

    asyncio.run(main())


def test_auto_says_which_engine_it_is(bundle: Path) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle), engine="auto", precision="f32") as (engine, _):
            assert engine.name in ("onnxruntime", "openvino")
            await assert_right(engine)

    asyncio.run(main())


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGSTOP])
def test_an_engine_that_dies_or_hangs_fails_its_call_and_is_started_again(bundle: Path, fault: signal.Signals) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle), run_seconds=1) as (engine, restarts):
            first = pid()
            os.kill(first, fault)
            expected, reason = {
                signal.SIGSEGV: (EngineFailed, "died"),
                signal.SIGSTOP: (EngineHung, "hung"),
            }[fault]
            with pytest.raises(expected, match="it is being started again"):
                await engine.run(reference_network.images(224))
            assert "started again" in str(engine.fault)
            with pytest.raises(NotReady):
                await engine.self_test()
            await assert_right(engine)  # waits for it
            assert engine.fault is None
            assert restarts == [reason]
            assert pid() != first

    asyncio.run(main())


def test_an_engine_that_ends_while_it_has_nothing_to_do_is_started_again_before_a_call_meets_it(bundle: Path) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle)) as (engine, restarts):
            for ends in range(1, 3):
                first = pid()
                os.kill(first, signal.SIGKILL)
                await until(lambda: "started again" in (engine.fault or ""))
                await until(lambda: engine.fault is None)
                assert restarts == ["ended"] * ends
                assert pid() != first
                await assert_right(engine)

    asyncio.run(main())


def test_an_engine_that_keeps_ending_before_it_has_run_is_started_again_after_longer_and_longer_pauses(
    bundle: Path,
) -> None:
    pauses: list[tuple[float, list[int]]] = []  # and the processes meanwhile

    async def sleep(seconds: float) -> None:
        pauses.append((seconds, workers(os.getpid(), "engine")))

    async def main() -> None:
        async with running(open_bundle(bundle), sleep=sleep) as (engine, restarts):
            for ends in range(1, 5):
                os.kill(pid(), signal.SIGKILL)
                await until(lambda ends=ends: restarts == ["ended"] * ends and engine.fault is None)  # type: ignore[misc]
            assert pauses == [(0.5, []), (1.0, []), (2.0, [])]

    asyncio.run(main())


def test_an_engine_that_is_closed_or_fails_a_call_has_not_ended_by_itself(bundle: Path) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle)) as (engine, restarts):
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await assert_right(engine)
            await engine.close()
            for _ in range(2):  # turns of the event loop, which would see the process's end
                await asyncio.sleep(0)
            assert restarts == ["died"]

    asyncio.run(main())


def test_an_engine_that_raises_fails_its_call_and_is_started_again(bundle: Path) -> None:
    async def main() -> None:
        async with running(open_bundle(bundle)) as (engine, restarts):
            with pytest.raises(EngineFailed):
                await engine.classify([EngineInput(PixelLocation(0, 1 << 40))])  # beyond the end of the memory
            await assert_right(engine)
            assert restarts == ["failed"]

    asyncio.run(main())


def test_the_graph_it_started_with_is_the_one_it_starts_again_with(bundle: Path, tmp_path: Path) -> None:
    async def main() -> None:
        copied = Path(shutil.copytree(bundle, tmp_path / "b"))
        async with running(open_bundle(copied)) as (engine, _):
            shutil.rmtree(copied)
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await assert_right(engine)

    asyncio.run(main())


def test_an_engine_whose_graph_was_overwritten_is_not_started_again(bundle: Path, tmp_path: Path) -> None:
    async def main() -> None:
        copied = Path(shutil.copytree(bundle, tmp_path / "b"))
        async with running(open_bundle(copied)) as (engine, _):
            original = (copied / "model.onnx").read_bytes()
            with (copied / "model.onnx").open("r+b") as file:
                file.write(b"?")
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await until(lambda: "was overwritten" in (engine.fault or ""))
            with (copied / "model.onnx").open("r+b") as file:
                file.write(original)
            async with asyncio.timeout(20):
                await assert_right(engine)  # the next attempt succeeded

    asyncio.run(main())


def with_other_logits(bundle: Path) -> Bundle:
    """The bundle, with golden logits that its graph does not give."""
    opened = open_bundle(bundle)
    golden = opened.golden(224)
    opened._golden[224] = Golden(golden.images, golden.logits[:, ::-1])
    return opened


def test_wrong_logits_keep_it_from_starting(bundle: Path) -> None:
    async def main() -> None:
        with pytest.raises(WrongAnswers, match="onnxruntime f32 gives wrong answers"):
            async with running(with_other_logits(bundle)):
                pass
        assert workers(os.getpid(), "engine") == []

    asyncio.run(main())


def test_wrong_logits_later_are_found_by_a_self_test_and_it_is_started_again(bundle: Path) -> None:
    async def main() -> None:
        opened = open_bundle(bundle)
        async with running(opened) as (engine, restarts):
            honest = opened.golden(224)
            opened._golden[224] = Golden(honest.images, honest.logits[:, ::-1])
            with pytest.raises(WrongAnswers, match=r"crossvit_tiny at 224: logits .* off the recorded ones"):
                await engine.self_test()
            opened._golden[224] = honest
            await engine.ready()
            await engine.self_test()
            assert restarts == ["wrong"]

    asyncio.run(main())


def test_an_engine_that_cannot_start_raises_the_reason(bundle: Path) -> None:
    async def main() -> None:
        with pytest.raises(NoEngine, match="precision=bf16"):
            async with running(open_bundle(bundle), precision="bf16"):
                pass
        with pytest.raises(EngineFailed, match="the engine cannot start; the log says why"):
            async with running(open_bundle(bundle), load_seconds=0.05):
                pass
        opened = open_bundle(bundle)
        opened.manifest.files["model.onnx"] = "0" * 64
        with pytest.raises(BadBundle, match="was overwritten"):
            async with running(opened):
                pass

    asyncio.run(main())


def test_closing_while_it_starts_leaves_no_process(bundle: Path) -> None:
    async def main() -> None:
        engine = EngineSupervisor(
            open_bundle(bundle), 224, engine="onnxruntime", precision="f32", run_seconds=5, load_seconds=60
        )
        start = asyncio.create_task(engine.start())
        await until(lambda: workers(os.getpid(), "engine"))
        start.cancel()
        await engine.close()
        await until(lambda: not workers(os.getpid(), "engine"))

    asyncio.run(main())


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Gpu:
    return fakes.in_workers(tmp_path, monkeypatch)


@pytest.fixture
def planned(bundle: Path, tmp_path: Path) -> Bundle:
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    put_plan(copied)
    return open_bundle(copied)


ANY = {"engine": "auto", "precision": "auto"}


def test_what_is_refused_is_shown_and_logged_once(
    planned: Bundle, gpu: fakes.Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        gpu.does(cuda="refused")
        async with running(planned, **ANY) as (engine, _):
            assert engine.name == "onnxruntime"
            assert engine.refused == {"onnxruntime-cuda": "the driver is too old; update it"}
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await assert_right(engine)
            assert engine.refused == {"onnxruntime-cuda": "the driver is too old; update it"}

    asyncio.run(main())
    told = [record for record in caplog.records if "the driver is too old" in record.message]
    assert [record.levelname for record in told] == ["WARNING"]
    assert told[0].message == "b at 224 is not run by onnxruntime-cuda: the driver is too old; update it"


def test_an_engine_that_fails_once_is_the_one_that_runs_again(planned: Bundle, gpu: fakes.Gpu) -> None:
    async def main() -> None:
        async with running(planned, **ANY) as (engine, restarts):
            assert (engine.name, engine.precision, engine.batch) == ("tensorrt", "fp16", 32)
            gpu.does(tensorrt="fails", cuda="works")
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            gpu.does(tensorrt="works", cuda="works")
            await assert_right(engine)
            assert (engine.name, engine.refused, restarts) == ("tensorrt", {}, ["failed"])

    asyncio.run(main())


@pytest.mark.parametrize("word", ["gone", "fails", "lies", "crashes"])
def test_a_gpu_that_does_not_come_back_leaves_the_model_to_what_else_there_is(
    planned: Bundle, gpu: fakes.Gpu, word: str
) -> None:
    async def main() -> None:
        async with running(planned, **ANY) as (engine, _):
            gpu.does(tensorrt=word)
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await assert_right(engine)
            assert (engine.name, engine.precision) == ("onnxruntime", "f32")
            assert engine.refused["tensorrt"].startswith("it could not be started again: ")
            gpu.does(tensorrt="works")  # now the one that runs is started again
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await assert_right(engine)
            assert (engine.name, *engine.refused) == ("onnxruntime", "tensorrt")

    asyncio.run(main())


def test_an_engine_that_was_requested_by_name_is_started_again_until_it_runs(planned: Bundle, gpu: fakes.Gpu) -> None:
    async def main() -> None:
        async with running(planned, engine="tensorrt", precision="auto") as (engine, _):
            gpu.does(cuda="works")
            os.kill(pid(), signal.SIGKILL)
            with pytest.raises(EngineFailed):
                await engine.run(reference_network.images(224))
            await until(lambda: "cannot be started again: no engine here" in (engine.fault or ""))
            gpu.does(tensorrt="works")
            async with asyncio.timeout(20):
                await assert_right(engine)
            assert (engine.name, engine.refused) == ("tensorrt", {})

    asyncio.run(main())
