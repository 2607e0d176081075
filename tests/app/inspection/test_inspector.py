"""The inspection process, with real faults."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.decoding.decoder_memory import PixelLocation
from app.errors import EngineFailed, EngineHung, NotReady, WrongAnswers
from app.inspection.inspector import InspectedImage, InspectionInput, Inspector
from app.processes.shared_memory import SharedMemory
from bundle.bundle_errors import BadBundle
from bundle.reader import Bundle, open_bundle
from tests.support.processes import own_cpu_seconds, workers
from tests.support.reference_network import TINY
from tests.support.waiting import until

RESOLUTION = 224
SMALL, LARGE = TINY.dims


def inspection_processes() -> list[int]:
    return workers(os.getpid(), "inspection")


@asynccontextmanager
async def inspecting(path: Path, **options: Any) -> AsyncIterator[tuple[Inspector, list[str]]]:
    """An inspector of the bundle at `path`, whose first memory has its golden images."""
    bundle = open_bundle(path)
    images = bundle.golden(RESOLUTION).images
    memory = SharedMemory(images.nbytes)
    memory.array(0, *images.shape)[...] = images
    restarts: list[str] = []
    given = {"run_seconds": 20, "load_seconds": 60} | options
    inspector = Inspector(bundle, [memory.file], on_restart=restarts.append, **given)
    try:
        yield inspector, restarts
    finally:
        await inspector.close()
        memory.close()
        bundle.close()
    assert inspection_processes() == []


def golden_input(bundle: Bundle, number: int, *classes: int) -> InspectionInput:
    size = bundle.golden(RESOLUTION).images[0].nbytes
    return InspectionInput(PixelLocation(0, number * size), classes)


async def inspected(inspector: Inspector, *wanted: tuple[int, ...]) -> list[InspectedImage]:
    """The first golden images, with these classes of each."""
    inputs = [golden_input(inspector._bundle, number, *classes) for number, classes in enumerate(wanted)]
    return await inspector.inspect(RESOLUTION, inputs)


def test_it_starts_at_its_first_call_and_gives_the_golden_logits_and_embeddings(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, restarts):
            assert inspection_processes() == []
            found = await inspected(inspector, (), ())
            assert len(inspection_processes()) == 1
            logits = inspector._bundle.golden(RESOLUTION).logits
            for number, image in enumerate(found):
                np.testing.assert_allclose(image.outputs, logits[:, number], atol=1e-4)
                assert [part.shape for part in image.embeddings] == [(SMALL,), (LARGE,)]
                assert (image.attention, image.maps) == (None, [])
                assert [len(part) for part in image.embeddings_of("small")] == [SMALL, 0]
                assert [len(part) for part in image.embeddings_of("large")] == [0, LARGE]
            assert restarts == []

    asyncio.run(main())


def test_classes_are_explained_by_index_and_by_rank_in_their_order(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            ranked, embedded, named = await inspected(inspector, (-1, -2, -3), (), (7,))
            order = np.argsort(-ranked.outputs[0], kind="stable")
            assert [each.index for each in ranked.maps] == [*order[:3]]
            assert embedded.maps == []
            assert [each.index for each in named.maps] == [7]
            for each in (*ranked.maps, *named.maps):
                assert (each.small.shape, each.large.shape) == ((20, 20), (14, 14))
            assert ranked.attention is not None
            for attention in ranked.attention:
                assert 0 < attention.sum() < 1
                assert (attention >= 0).all()
            (again, _, _) = await inspected(inspector, (int(order[1]),), (), (-1,))
            np.testing.assert_allclose(again.maps[0].small, ranked.maps[1].small, atol=1e-5)
            np.testing.assert_allclose(again.maps[0].large, ranked.maps[1].large, atol=1e-5)

    asyncio.run(main())


def test_another_resolution_uses_the_same_process(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            await inspected(inspector, ())
            (process,) = inspection_processes()
            (image,) = await inspector.inspect(384, [InspectionInput(PixelLocation(1, 0), (0,))])
            assert (image.maps[0].small.shape, image.maps[0].large.shape) == ((34, 34), (24, 24))
            assert inspection_processes() == [process]

    asyncio.run(main())


def test_a_process_that_dies_costs_its_call_and_the_next_starts_it_again(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, restarts):
            await inspected(inspector, ())
            (process,) = inspection_processes()
            os.kill(process, signal.SIGSTOP)
            call = asyncio.create_task(inspected(inspector, ()))
            await asyncio.sleep(0.05)
            os.kill(process, signal.SIGKILL)
            with pytest.raises(EngineFailed, match="what explains failed; the next request starts it again"):
                await call
            assert restarts == ["died"]
            assert len(await inspected(inspector, (), ())) == 2
            assert inspection_processes() != [process]

    asyncio.run(main())


def test_a_process_that_ends_while_it_has_nothing_to_do_costs_nothing(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, restarts):
            await inspected(inspector, ())
            os.kill(inspection_processes()[0], signal.SIGKILL)
            await until(lambda: restarts == ["ended"])
            assert len(await inspected(inspector, ())) == 1

    asyncio.run(main())


def test_a_process_that_hangs_is_ended(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle, run_seconds=0.01) as (inspector, restarts):
            await inspected(inspector, ())
            inspector._image_seconds[RESOLUTION] = 0.001
            os.kill(inspection_processes()[0], signal.SIGSTOP)
            with pytest.raises(EngineHung, match="what explains did not answer in time"):
                await inspected(inspector, ())
            assert restarts == ["hung"]
            assert inspection_processes() == []

    asyncio.run(main())


def test_a_client_that_leaves_during_the_start_does_not_stop_it_for_others(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            first = asyncio.create_task(inspected(inspector, ()))
            await until(inspection_processes)
            first.cancel()
            assert len(await inspected(inspector, ())) == 1
            assert len(inspection_processes()) == 1

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 0.05, 0.3, 1])
def test_closing_it_during_the_start_leaves_no_process(bundle: Path, seconds: float) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            call = asyncio.create_task(inspected(inspector, ()))
            await asyncio.sleep(seconds)
            await inspector.close()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(main())


def test_one_that_cannot_start_is_not_started_again_at_once(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle, load_seconds=0.001) as (inspector, _):
            with pytest.raises(EngineFailed, match="what explains cannot start; the log says why"):
                await inspected(inspector, ())
            for _ in range(3):
                with pytest.raises(NotReady, match="what explains could not be started") as caught:
                    await inspected(inspector, ())
                assert caught.value.retry_after == 1
            inspector._load_seconds = 60
            await asyncio.sleep(1.1)
            assert len(await inspected(inspector, ())) == 1

    asyncio.run(main())


def test_a_graph_that_does_not_give_the_golden_logits_answers_nothing(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, restarts):
            golden = inspector._bundle._golden
            golden[RESOLUTION] = replace(golden[RESOLUTION], logits=golden[RESOLUTION].logits + 1)
            with pytest.raises(
                WrongAnswers, match=r"at 224: the inspection graph gives logits .* off the recorded ones"
            ):
                await inspected(inspector, ())
            assert restarts == ["wrong"]
            assert inspection_processes() == []

    asyncio.run(main())


def test_a_graph_that_was_overwritten_is_not_run(bundle: Path) -> None:
    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            inspector._bundle.manifest.files["inspection.onnx"] = "0" * 64
            with pytest.raises(BadBundle, match="was overwritten while it was served"):
                await inspected(inspector, ())

    asyncio.run(main())


def test_it_uses_no_core_while_it_has_nothing_to_do(bundle: Path) -> None:
    """Threads that wait for work would slow down the engine that classifies."""

    async def main() -> None:
        async with inspecting(bundle) as (inspector, _):
            await inspected(inspector, (-1,))
            (process,) = inspection_processes()
            assert os.getpriority(os.PRIO_PROCESS, process) > os.getpriority(os.PRIO_PROCESS, 0)
            before = own_cpu_seconds(process)
            await asyncio.sleep(0.3)
            assert own_cpu_seconds(process) - before < 0.03

    asyncio.run(main())
