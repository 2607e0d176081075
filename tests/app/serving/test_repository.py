"""Loading, replacing and unloading real bundles, in this process; over HTTP it is in test_models.py."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from app.decoding.pool import DecoderPool
from app.engines.engine_process.supervisor import EngineSupervisor
from app.errors import LoadFailed, NotReady, UnknownModel
from app.inspection.inspector import Inspector
from app.serving.repository import Repository
from app.serving.served_model import ServedModel
from app.telemetry.metrics import Metrics
from bundle.bundle_errors import BadBundle
from bundle.reader import Bundle, open_bundle
from tests.support.pictures import encoded, scene
from tests.support.plans import put_plan
from tests.support.processes import workers
from tests.support.waiting import until

PNG = encoded(scene(300, 280))


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """A folder of bundles: a, b, what is none, and what an export has left behind."""
    for name in ("a", "b", ".b.partial-x"):
        shutil.copytree(bundle, tmp_path / name)
    (tmp_path / "notes").mkdir()
    return tmp_path


def change(bundle: Path, **values: Any) -> None:
    """Put another bundle at its place, as an export does."""
    new = Path(shutil.copytree(bundle, bundle.with_name(".new")))
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps(manifest | values))
    shutil.rmtree(bundle)
    new.rename(bundle)


@asynccontextmanager
async def serving(path: Path, default: str | None = None, **more: Any) -> AsyncIterator[Repository]:
    async with DecoderPool(count=1, max_pixels=10**6, seconds=10, memory_bytes=1 << 30) as decoders:

        def make(bundle: Bundle) -> ServedModel:
            return ServedModel(
                bundle,
                decoders,
                Metrics(list).model(bundle.name),
                make_engine=partial(
                    EngineSupervisor, engine="onnxruntime", precision="f32", run_seconds=5, load_seconds=60
                ),
                make_inspector=partial(Inspector, run_seconds=5, load_seconds=60),
                max_batch=8,
                max_queue=16,
            )

        repository = Repository([path], default, make, **more)
        try:
            yield repository
        finally:
            await repository.close()


async def classify(repository: Repository, name: str | None = None) -> None:
    model = repository.model(name)
    with model.in_use():
        await model.classify(PNG)


def states(repository: Repository) -> dict[str, str]:
    return {entry.name: entry.state for entry in repository.entries}


def test_a_folder_of_bundles_has_a_default_and_others(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder, "b") as repository:
            assert states(repository) == {"a": "LOADING", "b": "LOADING"}
            with pytest.raises(NotReady, match="b is loading"):
                repository.model()
            await repository.load_all()
            assert states(repository) == {"a": "READY", "b": "READY"}
            assert repository.model().bundle.name == "b"
            await classify(repository, "a")
            with pytest.raises(UnknownModel, match="there is no model 'c'"):
                repository.model("c")
        assert workers(os.getpid(), "engine") == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("default", "message"),
    [(None, "several models at .*; choose one with --default-model: a, b"), ("c", "no model 'c' at .*; there is a, b")],
)
def test_a_default_must_be_one_of_them(folder: Path, default: str | None, message: str) -> None:
    async def main() -> None:
        with pytest.raises(BadBundle, match=message):
            async with serving(folder, default):
                pass

    asyncio.run(main())


def test_a_replaced_bundle_is_proven_then_swapped_in_and_the_old_one_finishes(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder / "a") as repository:
            await repository.load_all()
            old = repository.model()
            (engine,) = workers(os.getpid(), "engine")
            with old.in_use():
                change(folder / "a", source="another")
                await repository.load("a")
                assert repository.model() is not old
                assert len(workers(os.getpid(), "engine")) == 2
                await old.classify(PNG)
            await until(lambda: workers(os.getpid(), "engine") != [] and engine not in workers(os.getpid(), "engine"))
            await classify(repository)

    asyncio.run(main())


def test_loading_what_is_served_already_changes_nothing(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder / "a") as repository:
            await repository.load_all()
            model = repository.model()
            await repository.load("a")
            assert await repository.reload() == []
            assert repository.model() is model

    asyncio.run(main())


def test_a_plan_that_was_built_meanwhile_is_a_change(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder / "a") as repository:
            await repository.load_all()
            before = repository.model()
            put_plan(folder / "a")
            await repository.load("a")
            with_plan = repository.model()
            assert with_plan is not before
            await repository.load("a")
            assert repository.model() is with_plan
            shutil.rmtree(folder / "a" / "engines")
            await repository.load("a")
            assert repository.model() is not with_plan
            await classify(repository)

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["graph", "golden"])
def test_a_load_that_fails_leaves_the_old_one_serving_and_says_why(folder: Path, damage: str) -> None:
    async def main() -> None:
        async with serving(folder / "a") as repository:
            await repository.load_all()
            model = repository.model()
            manifest = json.loads((folder / "a" / "manifest.json").read_text())
            name = {"graph": "model.onnx", "golden": "golden.npz"}[damage]
            change(folder / "a", files=manifest["files"] | {name: "0" * 64})
            with pytest.raises(LoadFailed, match=f"a cannot be loaded: .*{name} is not the file"):
                await repository.load("a")
            assert repository.model() is model
            await classify(repository)
            (entry,) = repository.entries
            assert (entry.state, f"{name} is not the file" in entry.fault) == ("READY", True)

    asyncio.run(main())


def test_unloading_ends_the_engine_when_its_work_is_done(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder, "a") as repository:
            await repository.load_all()
            model = repository.model("b")
            with model.in_use():
                await repository.unload("b")
                with pytest.raises(NotReady, match="b is not served: it is unloaded"):
                    repository.model("b")
                await model.classify(PNG)
            await until(lambda: not workers(os.getpid(), "engine b"))
            assert states(repository) == {"a": "READY", "b": "UNAVAILABLE"}
            await repository.load("b")
            await classify(repository, "b")

    asyncio.run(main())


def test_reload_takes_what_is_new_drops_what_has_gone_and_keeps_the_default(folder: Path, bundle: Path) -> None:
    async def main() -> None:
        async with serving(folder, "a") as repository:
            await repository.load_all()
            shutil.copytree(bundle, folder / "c")
            shutil.rmtree(folder / "b")
            assert await repository.reload() == []
            assert states(repository) == {"a": "READY", "c": "READY"}
            shutil.rmtree(folder / "a")
            (fault,) = await repository.reload()
            assert "the bundle of a, the default model, is gone" in fault
            await classify(repository)

    asyncio.run(main())


@pytest.mark.parametrize("gone", ["the folder", "a manifest"])
def test_reload_keeps_what_only_seems_to_be_gone(folder: Path, gone: str) -> None:
    async def main() -> None:
        models = folder / "models"
        models.mkdir()
        for name in ("a", "b"):
            (folder / name).rename(models / name)
        async with serving(models, "a") as repository:
            await repository.load_all()
            if gone == "the folder":
                models.rename(folder / "moved")
            else:
                (models / "b" / "manifest.json").unlink()
            faults = await repository.reload()
            why = f"there is no {models}" if gone == "the folder" else f"{models}/b has no manifest.json"
            assert f"the bundle of b is served as it was: {why}" in faults
            await classify(repository, "b")

    asyncio.run(main())


class Mute(ServedModel):
    """A model without an engine: another user than root may not be able to start a Python here."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.calibrations = bundle.calibration

    fault = None

    async def start(self, *_: object) -> None:
        pass

    def engine(self, resolution: int | None = None) -> tuple[str, str]:  # noqa: ARG002
        return "", ""

    async def close(self) -> None:
        self.bundle.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_folders_that_are_closed_to_the_service_keep_no_model_from_being_served(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(volume: Path) -> None:
        for name in ("a", "b"):
            shutil.copytree(bundle, volume / name)
        (volume / "lost+found").mkdir(mode=0o700)
        open_bundle(bundle).close()  # imports what others may not read
        os.seteuid(65534)
        repository = Repository([volume], "a", Mute)
        await repository.load_all()
        os.seteuid(0)
        (volume / "b").chmod(0o700)
        os.seteuid(65534)
        (fault,) = await repository.reload()
        assert f"the bundle of b is served as it was: {volume}/b/manifest.json cannot be read" in fault
        assert states(repository) == {"a": "READY", "b": "READY"}
        with pytest.raises(UnknownModel, match=r"no bundle called 'b' to load \(.*belongs to user 0"):
            await repository.load("b")
        await repository.close()
        assert f"passed over: {volume}/lost+found/manifest.json cannot be read" in caplog.text

    with TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        try:
            asyncio.run(main(Path(folder)))
        finally:
            os.seteuid(0)


def test_the_only_bundle_is_served_under_another_name_until_there_are_two(folder: Path) -> None:
    async def main() -> None:
        shutil.rmtree(folder / "b")
        async with serving(folder, name="flowers") as repository:
            await repository.load_all()
            assert repository.model("flowers").bundle.name == repository.default == "flowers"
            change(folder / "a", exporter="another")
            assert await repository.reload() == []
            assert states(repository) == {"flowers": "READY"}
            shutil.copytree(folder / "a", folder / "b")
            (fault,) = await repository.reload()
            assert "flowers is served as it was: flowers can be the name of one model only, and there are a, b" in fault
            assert states(repository) == {"flowers": "READY"}
            await classify(repository, "flowers")

    asyncio.run(main())


def test_one_that_cannot_be_loaded_does_not_keep_the_others_from_it(folder: Path) -> None:
    async def main() -> None:
        (folder / "b" / "labels.json").write_text("[]")
        async with serving(folder, "a") as repository:
            await repository.load_all()
            assert states(repository) == {"a": "READY", "b": "UNAVAILABLE"}
            with pytest.raises(NotReady, match="b is not served: it could not be loaded; GET /models says why"):
                repository.model("b")
            assert "labels.json is not the file" in repository.entries[1].fault

    asyncio.run(main())


def test_a_model_that_is_unloaded_while_another_loads_is_not_loaded(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder, "a") as repository:
            loading = asyncio.create_task(repository.load_all())
            await until(lambda: workers(os.getpid(), "engine"))
            await repository.unload("b")
            await loading
            assert states(repository) == {"a": "READY", "b": "UNAVAILABLE"}
            with pytest.raises(NotReady, match="b is not served: it is unloaded"):
                repository.model("b")

    asyncio.run(main())


def test_closing_while_a_model_loads_leaves_nothing(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder, "a") as repository:
            loading = asyncio.create_task(repository.load_all())
            await until(lambda: workers(os.getpid(), "engine"))
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await until(lambda: not workers(os.getpid(), "engine"))

    asyncio.run(main())
