"""`crossvit bulk`: killed at any moment, the same command ends with every file once."""

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from app.bulk.part_writer import PartWriter
from app.commands.bulk_command import main
from tests.support.bulk_runs import make_photos, start_bulk
from tests.support.pictures import encoded, scene
from tests.support.waiting import wait_until

FILES = 120
BROKEN = 6

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Start:
    """Starts the command on the folder `photos`, of which some files are broken."""
    make_photos(tmp_path, FILES, BROKEN)
    return lambda *options: start_bulk(tmp_path, bundle, "--out", "out", *options, CROSSVIT_DECODERS="1")


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("part-*.parquet"))


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (signal.SIGINT, signal.SIGTERM))],
)
def test_every_file_is_there_once_after_a_kill(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    first = start()
    wait_until(lambda: len(parts(tmp_path)) >= 2, 120)
    first.send_signal(number)
    _, said = first.communicate(timeout=30)
    left = len(parts(tmp_path))
    assert 2 <= left < FILES // 10
    if number != signal.SIGKILL:
        assert first.returncode == (130 if number == signal.SIGINT else 143)
        assert "interrupted; the same command goes on with the parts that are missing" in said
        assert "Traceback" not in said
    second = start()
    _, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert f"going on: {left} of {FILES // 10} parts are there" in said
    assert f"{FILES} rows: {FILES - BROKEN} with classes, {BROKEN} with a problem: out" in said
    rows = pd.concat([pd.read_parquet(part) for part in parts(tmp_path)])
    assert sorted(rows["id"]) == [f"photos/{number:03}.jpg" for number in range(FILES)]
    assert rows["problem"].notna().sum() == BROKEN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-bytes", "1kB"], "--max-bytes 1kB: a size of at least 10,000,000 bytes"),
        (["--top-k", "51"], "Invalid value for '--top-k'"),
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
    ],
)
def test_what_cannot_be_is_a_sentence(start: Start, tmp_path: Path, options: list[str], message: str) -> None:
    refused = start(*options)
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert message in re.sub(r"\s+", " ", said)
    assert "Traceback" not in said
    assert not parts(tmp_path)


def test_what_fails_on_the_way_says_how_to_go_on(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the first part: by a stand-in, since none is full here."""

    async def write(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.jpg").write_bytes(encoded(scene(60, 60), "JPEG"))
    monkeypatch.setattr(PartWriter, "write", write)
    monkeypatch.setenv("CROSSVIT_ENGINE", "onnxruntime")
    done = CliRunner().invoke(main, [str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out"), "--bundle", str(bundle)])
    assert done.exit_code == 1
    assert "No space left on device; the same command goes on with the parts that are missing" in done.output
