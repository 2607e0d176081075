"""The log of answers: whole files, also at the end and on a full disk, and never more rows than there is room for."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import BadParameter
from app.telemetry import answer_log
from app.telemetry.answer_log import AnswerLog, AnswerRow
from app.telemetry.metrics import Metrics
from tests.support.waiting import wait_until

ROW = AnswerRow(
    time=datetime(2026, 11, 30, 12, tzinfo=UTC),
    request_id="a",
    model="net",
    weights="sha256:1",
    resolution=224,
    precision="f32",
    index=1,
    wnid=None,
    label="cat",
    score=0.5,
    entropy=1.0,
    disagreement=0.1,
    top_indices=[1, 0],
    top_scores=[0.5, 0.4],
)


def counted(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("crossvit_answer_log_rows_total", {"outcome": outcome}) or 0.0


def test_what_is_left_is_written_at_the_end(tmp_path: Path) -> None:
    metrics = Metrics(list)
    log = AnswerLog(tmp_path / "new" / "folder", 600, metrics)
    log.start()
    log.append([ROW, replace(ROW, request_id="b")])
    log.close()
    log.append([ROW])
    (file,) = (tmp_path / "new" / "folder").iterdir()
    table = pq.read_table(file)
    assert table.column("request_id").to_pylist() == ["a", "b"]
    assert table.schema.field("time").type == pa.timestamp("us", "UTC")
    assert table.schema.field("top_scores").type == pa.list_(pa.float64())
    assert (counted(metrics, "written"), counted(metrics, "dropped")) == (2, 1)


def test_a_full_file_is_written_at_once_and_files_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "MOST_ROWS_OF_A_FILE", 3)
    metrics = Metrics(list)
    log = AnswerLog(tmp_path, 600, metrics)
    log.start()
    log.append([ROW] * 7)
    wait_until(lambda: counted(metrics, "written") == 7)
    assert sorted(pq.read_metadata(file).num_rows for file in tmp_path.iterdir()) == [1, 3, 3]
    log.close()


def test_rows_without_room_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "MOST_WAITING_ROWS", 5)
    metrics = Metrics(list)
    log = AnswerLog(tmp_path, 600, metrics)  # its thread does not run: nothing is written
    log.append([ROW] * 4)
    log.append([ROW] * 2)
    assert counted(metrics, "dropped") == 2


def test_a_folder_that_goes_away_is_made_again(tmp_path: Path) -> None:
    metrics = Metrics(list)
    folder = tmp_path / "answers"
    log = AnswerLog(folder, 600, metrics)
    log.start()
    folder.rmdir()
    log.append([ROW])
    log.close()
    assert len(list(folder.iterdir())) == 1


def test_what_cannot_be_written_is_logged_and_the_log_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(list)
    folder = tmp_path / "answers"
    log = AnswerLog(folder, 0.05, metrics)
    log.start()
    folder.rmdir()
    folder.write_text("a file has taken its place")
    log.append([ROW])
    wait_until(lambda: counted(metrics, "dropped") == 1)
    assert "1 answers cannot be written" in caplog.text
    folder.unlink()
    log.append([ROW])
    wait_until(lambda: counted(metrics, "written") == 1)
    log.close()


def test_containers_whose_processes_have_equal_ids_share_a_folder(tmp_path: Path) -> None:
    logs = [AnswerLog(tmp_path, 600, Metrics(list)) for _ in range(2)]  # in this process: the id is the same
    for number, log in enumerate(logs):
        log.start()
        log.append([replace(ROW, request_id=str(number))])  # of the same second
        log.close()
    found = {pq.read_table(file).column("request_id").to_pylist()[0] for file in tmp_path.iterdir()}
    assert found == {"0", "1"}


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadParameter, match="cannot be written"):
        AnswerLog(tmp_path / "file" / "answers", 1, Metrics(list))
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
