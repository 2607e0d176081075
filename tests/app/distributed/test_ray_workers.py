"""`crossvit bulk --ray`: the rows of a run without Ray, every file once, whatever is killed meanwhile."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.support.bulk_runs import make_photos, start_bulk
from tests.support.waiting import wait_until

pytest.importorskip("ray", reason="the extra ray is not installed: make test-all installs it")
pytestmark = pytest.mark.exhaustive

FILES = 400
BROKEN = 6

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Start:
    """Starts the command on the folder `photos`, of which some files are broken."""
    make_photos(tmp_path, FILES, BROKEN)
    return lambda *options: start_bulk(tmp_path, bundle, *options)


def rows(folder: Path) -> pd.DataFrame:
    found = pd.concat([pd.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))])
    assert found["id"].is_unique
    return found.set_index("id").sort_index()


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def ours(driver: int) -> list[psutil.Process]:
    """The actors below `driver`, and what they have started. What else Ray starts ends when Ray likes."""
    words = ("BulkActor", "app.processes.worker_main")
    children = psutil.Process(driver).children(recursive=True)
    return [child for child in children if any(word in command_line(child) for word in words)]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_every_file_is_there_once_after_driver_and_actor_were_killed(start: Start, tmp_path: Path) -> None:
    pool = ["--out", "out", "--ray", "local", "--workers", "3"]
    first = start(*pool)
    # Three actors, each with its decoder and its engine: the first one has parts before the last one has started.
    wait_until(lambda: parts(tmp_path / "out") >= 2 and len(ours(first.pid)) >= 3 * 3, 180)
    left_behind = ours(first.pid)
    first.kill()
    first.communicate()
    _, alive = psutil.wait_procs(left_behind, 60)
    assert not alive, "actors, decoders and engines end with the driver"
    left = parts(tmp_path / "out")
    assert 2 <= left < FILES // 10

    second = start(*pool)
    wait_until(lambda: parts(tmp_path / "out") > left, 180)
    victim = next(each for each in ours(second.pid) if "BulkActor" in command_line(each))
    os.kill(victim.pid, signal.SIGKILL)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert f"{FILES} rows: {FILES - BROKEN} with classes, {BROKEN} with a problem: out" in said
    assert sorted(rows(tmp_path / "out").index) == [f"photos/{number:03}.jpg" for number in range(FILES)]

    alone = start("--out", "alone")
    _, said = alone.communicate(timeout=300)
    assert alone.returncode == 0, said
    pd.testing.assert_frame_equal(rows(tmp_path / "out"), rows(tmp_path / "alone"), atol=1e-5)


def test_an_error_in_an_actor_is_a_sentence(start: Start, tmp_path: Path) -> None:
    refused = start("--out", "out", "--ray", "local", "--embeddings", "--resolution", "225")
    _, said = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert "resolution 225 is not served" in said
    refused = start("--out", "out", "--ray", "127.0.0.1:1")
    _, said = refused.communicate(timeout=120)
    assert refused.returncode == 2, said
    assert "error: --ray 127.0.0.1:1: " in said
    assert "Traceback" not in said
    assert not parts(tmp_path / "out")
