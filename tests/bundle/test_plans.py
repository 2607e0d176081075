import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle import plans
from bundle.plans import Plans, open_plans
from tests.support.plans import PLAN, put_plan

GRAPH = b"graph"
NAME = "224-fp16-gpu-trt10"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What of a bundle counts here."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").write_bytes(GRAPH)
    return tmp_path / "b"


def opened(folder: Path) -> Plans:
    return open_plans(folder, hashlib.sha256(GRAPH).hexdigest(), {224: 224, 384: 384})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_bundle_without_engines_has_no_plans(folder: Path) -> None:
    assert opened(folder) == Plans()
    (folder / "engines").mkdir()
    assert opened(folder) == Plans()


def test_plans_are_found_by_their_resolution(folder: Path) -> None:
    put_plan(folder)
    put_plan(folder, "224-fp16-other-trt10", gpu="NVIDIA L4")
    put_plan(folder, "384-bf16-gpu-trt10", resolution=384, side=384, precision="bf16")
    plans = opened(folder)
    found = {resolution: [(p.manifest.precision, p.manifest.gpu) for p in fit] for resolution, fit in plans.fit.items()}
    h100 = "NVIDIA H100 80GB HBM3"
    assert found == {224: [("fp16", h100), ("fp16", "NVIDIA L4")], 384: [("bf16", h100)]}
    assert plans.unfit == {}
    plans.close()


def test_a_plan_stays_open_when_another_takes_its_place(folder: Path) -> None:
    where = put_plan(folder)
    before = open_files()
    plans = opened(folder)
    shutil.rmtree(where)
    put_plan(folder, plan=b"another")
    (plan,) = plans.fit[224]
    assert os.pread(plan.file, 1000, 0) == PLAN
    plans.close()
    assert open_files() == before


def linked(place: Path) -> None:
    """A link to what was there."""
    place.symlink_to(place.rename(place.with_suffix(".moved")))


def fifo(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda where: (where / "plan").write_bytes(PLAN[:-1]), "its plan has 31 bytes, and should have 32"),
        (lambda where: (where / "plan").unlink(), "plan cannot be opened .No such file"),
        (lambda where: fifo(where / "plan"), "its plan is not a regular file"),
        (lambda where: linked(where / "plan"), "plan cannot be opened .Too many levels of symbolic links"),
        (lambda where: linked(where / "passport.json"), "passport.json cannot be opened .Too many levels"),
        (lambda where: (where / "passport.json").unlink(), "passport.json cannot be opened .No such file"),
        (
            lambda where: (where / "passport.json").write_text("{"),
            "is not a plan manifest: the file is not JSON",
        ),
        (
            lambda where: (where / "passport.json").write_text("{}"),
            "is not a plan manifest: format is missing",
        ),
    ],
)
def test_a_damaged_plan_is_unfit_and_says_why(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    where = put_plan(folder)
    put_plan(folder, "224-bf16-gpu-trt10", precision="bf16")
    damage(where)
    before = open_files()
    plans = opened(folder)
    assert [plan.manifest.precision for plan in plans.fit[224]] == ["bf16"]
    ((resolution, (found,)),) = plans.unfit.items()
    assert resolution == 224
    assert found.startswith(f"engines/{NAME}: ")
    assert re.search(reason, found)
    plans.close()
    assert open_files() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"graph_sha256": "0" * 64}, "it was built from another graph"),
        ({"side": 240}, "it is for images of 240 pixels, not of 224 as the bundle's are"),
        ({"resolution": 480}, "it is for resolution 480, which the bundle does not serve"),
    ],
)
def test_a_plan_that_does_not_fit_the_bundle_is_unfit(folder: Path, change: dict[str, Any], reason: str) -> None:
    put_plan(folder, **change)
    assert opened(folder) == Plans(unfit={224: [f"engines/{NAME}: {reason}"]})


def test_a_folder_name_that_is_not_text_is_shown_escaped(folder: Path) -> None:
    where = put_plan(folder, graph_sha256="0" * 64)
    os.rename(where, os.fsencode(folder / "engines") + b"/224-\xff\n\x1b[31m")  # noqa: PTH104
    ((reason,),) = opened(folder).unfit.values()
    assert reason == r"engines/'224-\udcff\n\x1b[31m': it was built from another graph"
    assert reason.encode()  # as a response has to


def test_only_the_first_of_very_many_plans_are_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MAX_PLANS", 2)
    for number in range(4):
        put_plan(folder, f"224-{number}")
    found = opened(folder)
    assert len(found.fit[224]) == 2
    assert found.unfit[224] == ["engines: of its 4 folders the first 2 are read; remove some"]
    found.close()


def test_a_link_out_of_the_bundle_is_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = put_plan(folder).rename(tmp_path / "outside")
    (folder / "engines" / "384-x").symlink_to(outside)
    assert opened(folder) == Plans(unfit={384: ["engines/384-x: 384-x cannot be opened (Not a directory)"]})
    (folder / "engines" / "384-x").unlink()
    (folder / "engines").rename(tmp_path / "engines")
    (folder / "engines").symlink_to(tmp_path / "engines")
    reason = ["engines: it cannot be opened as a folder (Not a directory)"]
    assert opened(folder) == Plans(unfit={224: reason, 384: reason})


def test_partial_plans_and_files_beside_them_are_ignored(folder: Path) -> None:
    put_plan(folder, f".{NAME}.partial-x", graph_sha256="0" * 64)
    (folder / "engines" / "timing.cache").write_bytes(b"")
    assert opened(folder) == Plans()
