import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle.bundle_errors import NotABundle
from bundle.plan_manifest import PlanManifest
from bundle.plans import open_plans
from export.plans.plan_folder import write_plan
from tests.support.folders import tree

GRAPH = "a" * 64
PASSPORT: dict[str, Any] = {
    "format": 1,
    "resolution": 224,
    "side": 224,
    "precision": "fp16",
    "batch_sizes": (1, 8),
    "graph_sha256": GRAPH,
    "tensorrt": "10.16.1.11",
    "gpu": "NVIDIA H100 80GB HBM3",
    "compute_capability": "9.0",
    "driver": "580.95.05",
    "cuda": "13.0",
    "version_compatible": False,
}
NAME = "224-fp16-nvidia-h100-80gb-hbm3-trt10.16.1.11"


def put_in_place(bundle: Path, changes: dict[str, Any], plan: bytes) -> Path:
    digest = hashlib.sha256(plan).hexdigest()
    manifest = PlanManifest(**PASSPORT | changes, plan_sha256=digest, plan_bytes=len(plan))
    return write_plan(bundle, manifest, plan)


def test_an_engine_is_a_folder_with_a_plan_and_its_passport(tmp_path: Path) -> None:
    place = put_in_place(tmp_path, {}, b"plan")
    assert place == tmp_path / "engines" / NAME
    assert sorted(tree(tmp_path)) == [
        "engines",
        f"engines/{NAME}",
        f"engines/{NAME}/passport.json",
        f"engines/{NAME}/plan",
    ]
    assert (place / "plan").read_bytes() == b"plan"
    passport = json.loads((place / "passport.json").read_text())
    assert passport.pop("plan_sha256") == hashlib.sha256(b"plan").hexdigest()
    assert passport == PASSPORT | {"batch_sizes": [1, 8], "least_sizes": [], "plan_bytes": 4}
    assert place.stat().st_mode & 0o777 == 0o755


def test_the_service_opens_the_plan(tmp_path: Path) -> None:
    put_in_place(tmp_path, {}, b"plan")
    plans = open_plans(tmp_path, GRAPH, {224: 224})
    assert not plans.unfit
    assert [plan.manifest.batch_sizes for plan in plans.fit[224]] == [(1, 8)]
    plans.close()


def test_an_engine_replaces_the_one_of_its_name_and_no_other(tmp_path: Path) -> None:
    put_in_place(tmp_path, {}, b"old")
    other = put_in_place(tmp_path, {"tensorrt": "11.4.0.106"}, b"other")
    before = tree(other)
    place = put_in_place(tmp_path, {}, b"new")
    assert (place / "plan").read_bytes() == b"new"
    assert tree(other) == before
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == sorted([NAME, other.name])


def test_the_rest_of_the_bundle_stays(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    put_in_place(tmp_path, {}, b"plan")
    assert (tmp_path / "manifest.json").read_text() == "{}"


def test_an_existing_folder_that_is_no_plan_is_not_touched(tmp_path: Path) -> None:
    place = tmp_path / "engines" / NAME
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(NotABundle, match="exists and is not an engine; it is not touched"):
        put_in_place(tmp_path, {}, b"plan")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("standing", [False, True])
def test_a_full_disk_leaves_the_bundle_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standing: bool
) -> None:
    if standing:
        put_in_place(tmp_path, {}, b"old")
    before = tree(tmp_path)
    written: list[Path] = []

    def full(path: Path, content: bytes) -> int:
        path.touch()
        os.truncate(path, len(content) // 2)
        written.append(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        put_in_place(tmp_path, {}, b"plan")
    monkeypatch.undo()
    assert [path.name for path in written] == ["plan"]
    assert tree(tmp_path) == before


SCRIPT = """
import os, signal, sys
from pathlib import Path
from bundle import atomic_files
from tests.export.plans.test_plan_folder import put_in_place
atomic_files.install_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
put_in_place(Path(sys.argv[1]), {}, b"plan")
"""


def test_leftovers_of_killed_runs_are_ignored_by_the_service_and_removed_by_the_next_build(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "engines").iterdir()
    assert sorted(path.name for path in left.iterdir()) == ["passport.json", "plan"]
    plans = open_plans(tmp_path, GRAPH, {224: 224})
    assert not plans.fit
    assert not plans.unfit
    other = put_in_place(tmp_path, {"precision": "bf16"}, b"plan")
    assert list((tmp_path / "engines").iterdir()) == [other]
