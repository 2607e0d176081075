"""Scripts that the documentation tells to run. docs/examples/digits.py is run by test_transfer.py."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from PIL import Image

from app.telemetry.answer_log import AnswerLog, AnswerRow
from app.telemetry.metrics import Metrics
from model.dataset import Dataset

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "tiny_imagenet.py"


def test_tiny_imagenet_becomes_folders_named_for_their_class(tmp_path: Path) -> None:
    """The archive is a stand-in of the same layout."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (9, 90, 200)).save(buffer, "JPEG")
    wnids = ("n01443537", "n01629819")
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        annotations = ""
        for number, wnid in enumerate(wnids):
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", buffer.getvalue())
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "")
            archive.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG", buffer.getvalue())
            annotations += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", annotations)
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", buffer.getvalue())
    subprocess.run([sys.executable, str(SCRIPT), "tiny-imagenet-200.zip"], cwd=tmp_path, check=True)
    for name, images in (("train", {"0.webp"}), ("val", {"val_0.JPEG", "val_1.JPEG"})):
        data = Dataset([tmp_path / f"{name}.zip"])
        assert data.categories == list(wnids)
        assert {Path(item.name).name for item in data.items} == images
        assert len(data) == 2


def test_drift_is_found_in_logs_of_answers_and_only_where_it_is(tmp_path: Path) -> None:
    row = AnswerRow(
        time=datetime(2026, 11, 30, tzinfo=UTC),
        request_id="",
        model="net",
        weights="sha256:1",
        resolution=224,
        precision="f32",
        index=0,
        wnid=None,
        label="cat",
        score=0.0,
        entropy=1.0,
        disagreement=0.1,
        top_indices=[0],
        top_scores=[0.0],
    )
    mixed = [replace(row, score=number / 200) for number in range(100)]
    contents = {
        "before": mixed,
        "same": [replace(each, score=each.score + 0.001) for each in mixed],
        "other": [replace(each, score=each.score + 0.3) for each in mixed],
        # another model came to it, whose scores are higher: not drift
        "more": [*mixed, *(replace(each, model="new", score=each.score + 0.3) for each in mixed)],
        "retrained": [replace(each, weights="sha256:2") for each in mixed],
    }
    for name, rows in contents.items():
        log = AnswerLog(tmp_path / name, 600, Metrics(list))
        log.start()
        log.append(rows)
        log.close()
    (tmp_path / "empty").mkdir()
    for arguments, status, message in (
        (["before", "same"], 0, "net (sha256:1) at 224 in f32: 100 answers before, 100 now"),
        (["before", "other"], 1, "100 answers before, 100 now"),
        (["before", "more"], 0, "new (sha256:1) at 224 in f32: only in more, not compared"),
        (["before", "retrained"], 2, "nothing to compare"),
        (["before", "empty"], 2, "no answers in empty"),
        (["before", "nowhere"], 2, "no answers in nowhere"),
        (["before"], 2, "usage: python drift.py BEFORE NOW"),
    ):
        done = subprocess.run(
            [sys.executable, str(SCRIPT.with_name("drift.py")), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert message in done.stdout + done.stderr
