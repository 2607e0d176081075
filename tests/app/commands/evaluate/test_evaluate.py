import asyncio
import csv
import gc
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner, Result

from app.api.schemas import Prediction
from app.cli import main
from app.commands.bench.http_client import LoadClient
from app.commands.evaluate import evaluation as running
from app.commands.evaluate.accuracy import AccuracySummary, Compared, ImagePrediction, PredictionTable, bin_of, wilson
from app.commands.evaluate.answers_csv import _FIELDS, open_answers
from app.commands.evaluate.bundle_source import Scoring, image_prediction
from app.commands.evaluate.class_mapping import PredictionMatcher, check_classes, match_classes
from app.commands.evaluate.evaluation import ImageFailure, ImageOutcome, sample, with_retries
from app.decoding.image_decoding import decode
from app.errors import BadParameter, NotReady
from bundle.calibration import CoverageThreshold, ScoreCalibration, ScoredGraph, SetThresholds
from bundle.class_labels import ClassLabel
from bundle.reader import open_bundle
from model.dataset import LabelledImage
from tests.support import slow_service as slow
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, free_port
from tests.support.slow_service import KEY, RETRY_AFTER, slow_service
from tests.support.waiting import wait_until

LABELS = [
    ClassLabel(index=0, wnid="n01", label="crane"),
    ClassLabel(index=1, wnid="n02", label="tench"),
    ClassLabel(index=2, wnid="n03", label="crane"),
    ClassLabel(index=3, wnid=None, label="4"),
]
PLAIN = [ClassLabel(index=index, wnid=None, label=f"class {index}") for index in range(7)]


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def measured(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = evaluate(*arguments, "--format", "json")
    assert done.exit_code == code, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# The figures


def tallied(logits: NDArray[np.float32], truths: Sequence[int]) -> AccuracySummary:
    """Of (outputs, images, classes) and the images' classes."""
    table = PredictionTable()
    for image, truth in enumerate(truths):
        table.add(PLAIN[truth].label, image_prediction(logits[:, image], PLAIN[truth], PLAIN))
    figures = table.summary()
    assert figures is not None
    return figures


def test_the_figures_are_those_of_a_computation_on_all_logits_at_once() -> None:
    rng = np.random.default_rng(1)
    truths = rng.integers(0, 6, 400)  # the seventh class has no image
    logits = rng.normal(0, 2, (3, 400, 7)).astype(np.float32)
    logits[:, np.arange(400), truths] += 2
    found = tallied(logits, truths.tolist())

    wide = logits[0].astype(np.float64)
    scores = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    best, confidence = scores.argmax(axis=1), scores.max(axis=1)
    right = best == truths
    assert found.images == 400
    assert found.top1 == pytest.approx(right.mean())
    assert found.confidence == pytest.approx(confidence.mean())
    assert found.nll == pytest.approx(-np.log(scores[np.arange(400), truths]).mean())
    for output, (top1, top5) in zip(
        logits,
        [(found.top1, found.top5), *((each.top1, each.top5) for each in found.branches.values())],
        strict=True,
    ):
        ranks = (output > output[np.arange(400), truths][:, None]).sum(axis=1)
        assert (top1, top5) == pytest.approx(((ranks < 1).mean(), (ranks < 5).mean()))

    ece = 0.0
    for number, each in enumerate(found.bins):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        assert each.images == inside.sum()
        if inside.any():
            assert each.accuracy == pytest.approx(right[inside].mean())
            assert each.confidence == pytest.approx(confidence[inside].mean())
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(ece)

    assert [each.category for each in found.classes] == [f"class {index}" for index in range(6)]
    assert found.class_mean == pytest.approx(np.mean([right[truths == index].mean() for index in range(6)]))
    for index, of_class in enumerate(found.classes):
        wrong = np.bincount(best[(truths == index) & ~right], minlength=7)
        assert of_class.images == (truths == index).sum()
        assert of_class.top1 == pytest.approx(right[truths == index].mean())
        assert of_class.taken_for == PLAIN[wrong.argmax()]
        assert of_class.taken_for_images == wrong.max()


def test_four_images_by_hand() -> None:
    table = PredictionTable()
    a, b = LABELS[:2]
    table.add("a", ImagePrediction(a, 0.9, (1, None, 2), a, nll=0.1, other=Compared(1, same_best=True, difference=0.5)))
    table.add("a", ImagePrediction(b, 0.9, (5, 1, 1), a, nll=0.5, other=Compared(2, same_best=True, difference=0.25)))
    table.add(
        "a", ImagePrediction(a, 0.5, (1, 1, 1), a, nll=0.2, other=Compared(None, same_best=False, difference=2.0))
    )
    table.add(
        "b", ImagePrediction(a, 0.1, (None, None, 3), b, nll=4.0, other=Compared(1, same_best=False, difference=0.0))
    )
    found = table.summary()
    assert found is not None
    assert (found.images, found.top1, found.top5) == (4, 0.5, 0.75)
    assert (found.class_mean, found.nll, found.confidence) == pytest.approx((1 / 3, 1.2, 0.6))
    assert found.ece == pytest.approx((abs(1 - 1.8) + abs(1 - 0.5) + abs(0 - 0.1)) / 4)
    assert [(each.top1, each.top5) for each in found.branches.values()] == [(0.5, 0.5), (0.5, 1.0)]
    assert found.against is not None
    assert (found.against.same_best, found.against.worst_difference) == (0.5, 2.0)
    assert (found.against.top1, found.against.top5) == (0.5, 0.75)
    one, two = found.classes
    assert (one.images, one.top1, one.top5) == pytest.approx((3, 2 / 3, 1))
    assert (two.images, two.top1, two.top5) == (1, 0, 0)
    assert [(each.taken_for, each.taken_for_images) for each in (one, two)] == [(b, 1), (a, 1)]


def test_without_images_there_is_no_summary() -> None:
    assert PredictionTable().summary() is None


def test_the_interval_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178))
    assert wilson(0, 10) == pytest.approx((0, 0.2775328))
    assert wilson(10, 10) == pytest.approx((0.7224672, 1))


def test_a_bin_has_its_upper_edge() -> None:
    assert [bin_of(score) for score in (0.0, 1e-9, 1 / 15, 0.0667, 0.2, 0.4, 1.0)] == [0, 0, 0, 1, 2, 5, 14]


def test_a_prediction_has_ranks_likelihood_and_comparison() -> None:
    logits = np.array([[0, 3, 1, 2, 5, 4, 6], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]], np.float32)
    kept = image_prediction(logits, PLAIN[2], PLAIN, logits[::-1])
    assert (kept.best, kept.ranks, kept.truth) == (PLAIN[6], (None, 3, 3), PLAIN[2])
    assert kept.nll == pytest.approx(np.log(np.exp(np.arange(7.0)).sum()) - 1)
    assert kept.other == Compared(rank=3, same_best=False, difference=6)
    assert image_prediction(1e4 * logits, PLAIN[2], PLAIN).nll == pytest.approx(5e4)


def test_sigmoid_scores_have_no_likelihood() -> None:
    kept = image_prediction(np.zeros((3, 7), np.float32), PLAIN[2], PLAIN, activation="sigmoid")
    assert (kept.score, kept.nll) == (0.5, None)


def test_the_accuracy_of_a_model_of_one_class_is_not_measured() -> None:
    with pytest.raises(BadParameter, match="the model has one class"):
        check_classes(1)
    check_classes(2)
    check_classes(None)


def test_a_sample_is_spread_evenly_and_so_is_its_beginning() -> None:
    assert sorted(sample(10, 4)) == [0, 2, 5, 7]
    assert sorted(sample(3, None)) == sorted(sample(3, 9)) == [0, 1, 2]
    classes = Counter(index // 50 for index in sample(10_000, None)[:2000])  # of 200 classes with 50 images each
    assert len(classes) == 200
    assert set(classes.values()) <= {9, 10, 11}


# Which class is meant


def test_classes_are_matched_by_wnid_or_label_or_else_all_by_index() -> None:
    assert match_classes(["n03", "tench", "4"], LABELS) == {"n03": LABELS[2], "tench": LABELS[1], "4": LABELS[3]}
    assert match_classes(["0", "02"], LABELS) == {"0": LABELS[0], "02": LABELS[2]}
    assert match_classes(["4"], LABELS) == {"4": LABELS[3]}  # a label goes before an index


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["n01", "n98", "n99"], r"2 of the data's 3 classes are not among the model's 4, such as 'n98'; .*'n01'"),
        (["0", "5"], r"1 of the data's 2 classes are not among the model's 4, such as '5'; .* or all by index"),
        (["0", "tench"], r"1 of the data's 2 classes .*'0'"),
        (["crane"], r"several classes have the label 'crane' \(n01, n03\): name the data's by wnid"),
    ],
)
def test_classes_that_cannot_be_matched_are_a_sentence(categories: list[str], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        match_classes(categories, LABELS)


def predictions(*labels: ClassLabel) -> list[Prediction]:
    return [Prediction(rank=rank, score=0.1, **label.model_dump()) for rank, label in enumerate(labels, start=1)]


def test_over_http_classes_are_found_by_wnid_or_label() -> None:
    found = PredictionMatcher(["n02", "crane", "5"], 4)
    assert found.rank("n02", predictions(*LABELS)) == 2
    assert found.rank("crane", predictions(*LABELS[1:])) == 2
    assert found.rank("5", predictions(*LABELS)) is None
    with pytest.raises(BadParameter, match=r"several classes have the label 'crane' \(2, 0\)"):
        found.rank("crane", predictions(LABELS[0]))


def test_over_http_numbers_are_indices_unless_labels_are_numbers() -> None:
    assert PredictionMatcher(["1", "2"], 4).rank("2", predictions(*LABELS[:3])) == 3
    assert PredictionMatcher(["1", "4"], 5).rank("4", predictions(*LABELS)) == 4
    assert PredictionMatcher(["1", "9"], 4).rank("1", predictions(*LABELS[:3])) is None


def test_an_engine_that_will_be_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_MAX_PAUSE_SECONDS", 0)
    asked = 0

    async def call() -> int:
        nonlocal asked
        asked += 1
        if asked % 11:
            raise NotReady("it is being started", retry_after=1)
        return asked

    with pytest.raises(NotReady):
        asyncio.run(with_retries(call))
    assert asked == 10
    assert asyncio.run(with_retries(call)) == 11


# A bundle's engine


@dataclass
class Labelled:
    """Images whose truth is the graph's best, third and seventh class in turns, and what the graph says of each."""

    bodies: dict[str, bytes]  # by <class>/<name>
    logits: NDArray[np.float32]  # (outputs, images, classes), in the order of `bodies`
    truths: list[int]

    def folder(self, path: Path) -> Path:
        for name, body in self.bodies.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(body)
        return path

    def zipped(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for name, body in self.bodies.items():
                archive.writestr(name, body)
        return path


@pytest.fixture(scope="module")
def labelled(bundle: Path) -> Labelled:
    opened = open_bundle(bundle)
    steps, labels = opened.manifest.preprocessing[224], opened.labels
    opened.close()
    images = [encoded(scene(230 + 10 * number, 300, number), "JPEG", quality=90) for number in range(9)]
    pixels = np.stack([decode(body, steps, 10**6) for body in images])
    logits = np.stack(onnxruntime.InferenceSession(bundle / "model.onnx").run(None, {"image": pixels}))
    truths = [int(np.argsort(-logits[0, number])[(0, 2, 6)[number % 3]]) for number in range(9)]
    named = {f"{labels[truth].wnid}/{number}.jpg": images[number] for number, truth in enumerate(truths)}
    return Labelled(named, logits, truths)


ENGINE = ("--engine", "onnxruntime", "--precision", "f32")


def test_a_bundle_is_as_accurate_as_its_graph(bundle: Path, labelled: Labelled, tmp_path: Path) -> None:
    report = measured(
        labelled.folder(tmp_path / "data"),
        "--bundle",
        bundle,
        *ENGINE,
        "--against",
        "openvino:f32",
        "--plot",
        tmp_path / "plot.png",
        "--answers",
        tmp_path / "answers.csv",
    )
    figures = report["figures"]
    assert (figures["images"], report["images"], report["errors"], report["interrupted"]) == (9, 9, [], False)
    assert (figures["top1"], figures["top5"]) == pytest.approx((3 / 9, 6 / 9))
    for output, name in enumerate(("logits_small", "logits_large"), start=1):
        ranks = [sum(labelled.logits[output, image] > labelled.logits[output, image, truth])
                 for image, truth in enumerate(labelled.truths)]  # fmt: skip
        expected = (np.mean([rank < 1 for rank in ranks]), np.mean([rank < 5 for rank in ranks]))
        assert (figures["branches"][name]["top1"], figures["branches"][name]["top5"]) == pytest.approx(expected)
    wide = labelled.logits[0].astype(np.float64)
    scores = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    assert figures["nll"] == pytest.approx(-np.log(scores[range(9), labelled.truths]).mean(), abs=1e-4)
    assert figures["confidence"] == pytest.approx(scores.max(axis=1).mean(), abs=1e-4)

    assert figures["against"]["same_best"] == 1
    assert 0 < figures["against"]["worst_difference"] < 1e-3
    assert (figures["against"]["top1"], figures["against"]["top5"]) == pytest.approx((3 / 9, 6 / 9))
    model, against = report["model"], report["against"]
    assert (model["name"], model["variant"], model["resolution"]) == (bundle.name, "crossvit_tiny", 224)
    assert (model["engine"], against["engine"], model["precision"]) == ("onnxruntime", "openvino", "f32")
    assert model["weights"].startswith("sha256:")

    assert sum(each["images"] for each in figures["classes"]) == sum(each["images"] for each in figures["bins"]) == 9
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for number, name in enumerate(labelled.bodies):
        row = rows[name]
        assert (row["truth"], row["rank"]) == (name.partition("/")[0], ("1", "3", "")[number % 3])
        assert int(row["index"]) == labelled.logits[0, number].argmax()
        assert float(row["score"]) == pytest.approx(scores[number].max(), abs=1e-4)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_images_without_an_answer_are_named_and_the_rest_is_measured(
    bundle: Path, labelled: Labelled, tmp_path: Path
) -> None:
    labelled.bodies |= {"n01440764/[broken].jpg": b"\xff\xd8\xff broken"}
    data = labelled.zipped(tmp_path / "data.zip")
    labelled.bodies.popitem()
    done = evaluate(data, "--bundle", bundle, *ENGINE, "--top-classes", 2, "--answers", tmp_path / "answers.csv")
    assert done.exit_code == 1
    assert "crossvit_tiny at 224: onnxruntime f32, weights sha256:" in done.stdout
    assert "9 of 10 images in" in done.stdout
    assert "33.33 %" in done.stdout
    assert "[broken].jpg in /" in done.stderr
    assert "1 images have no answer (BadImage: 1); the last: the JPEG image is incomplete: " in done.stderr
    with (tmp_path / "answers.csv").open(newline="") as file:
        (broken,) = (row for row in csv.DictReader(file) if row["error"])
    assert (broken["name"], broken["index"]) == ("n01440764/[broken].jpg", "")


@pytest.mark.parametrize("name", ["nothing", "bundle"])
def test_existing_answers_stay_until_the_first_new_one(
    bundle: Path, labelled: Labelled, tmp_path: Path, name: str
) -> None:
    data, answers = labelled.folder(tmp_path / "data"), tmp_path / "answers.csv"
    answers.write_text("what was measured before\n" * 100)
    chosen = ["--bundle", tmp_path / name] if name == "nothing" else ["--bundle", bundle, "--resolution", 300]
    assert evaluate(data, *chosen, "--answers", answers).exit_code == 2
    assert answers.read_text() == "what was measured before\n" * 100
    with open_answers(answers) as write:
        write(ImageOutcome(LabelledImage(data, "a.jpg", "a"), ImageFailure("kind", "broken")))
    assert answers.read_text() == f"{','.join(_FIELDS)}\n{data},a.jpg,a,,,,,,broken\n"


def test_answers_on_a_full_disk_are_a_sentence(tmp_path: Path) -> None:
    outcome = ImageOutcome(LabelledImage(tmp_path, "a.jpg", "a"), ImageFailure("kind", "broken"))
    with (
        pytest.raises(BadParameter, match="/dev/full cannot be written: No space left"),
        open_answers(Path("/dev/full")) as write,
    ):
        write(outcome)


# A server


def test_a_server_is_as_accurate_as_its_graph(server: Server, bundle: Path, labelled: Labelled, tmp_path: Path) -> None:
    data = labelled.folder(tmp_path / "data")
    (data / "n01440764").mkdir(exist_ok=True)
    (data / "n01440764" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    report = measured(data, "--url", server.url, "--clients", 4, code=1)
    figures = report["figures"]
    assert (figures["images"], figures["nll"], figures["branches"], figures["against"]) == (9, None, {}, None)
    assert (figures["top1"], figures["top5"]) == pytest.approx((3 / 9, 6 / 9))
    assert [(each["name"], report["failures"]) for each in report["errors"]] == [("n01440764/broken.jpg", {"422": 1})]
    assert (report["model"]["name"], report["model"]["variant"]) == (bundle.name, "crossvit_tiny")
    assert (report["model"]["precision"], report["model"]["resolution"]) == ("f32", 224)
    known = [each["truth"] for each in figures["classes"] if each["top5"]]
    assert all(each["wnid"] and each["label"] for each in known)


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """Files of two classes, which need be no images for a server that looks at none."""
    for number in range(12):
        (tmp_path / "some" / f"n0{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / f"n0{number % 2}" / f"{number:02}.jpg").write_bytes(b"x")
    return tmp_path / "some"


@pytest.fixture
def _n01_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    best = predictions(ClassLabel(index=4, wnid="n01", label="tench"), ClassLabel(index=2, wnid="n07", label="crane"))
    monkeypatch.setitem(slow.ANSWER, "predictions", [each.model_dump() for each in best])
    monkeypatch.setattr(running, "_MAX_PAUSE_SECONDS", 0.01)


@pytest.mark.usefixtures("_n01_is_best")
def test_a_server_that_is_busy_is_asked_again(some: Path) -> None:
    with slow_service(0, status=lambda number: (429, 200, 503, 200)[number % 4], keyed=True) as service:
        done = evaluate(some, "--url", service.url, "--api-key", KEY, "--model", "slow", "--format", "json")
        assert service.requests >= 24
        assert set(service.paths) == {"/classify?top_k=5&model=slow"}
    report = json.loads(done.stdout)
    assert (done.exit_code, report["figures"]["images"], report["figures"]["top1"]) == (0, 12, 0.5)
    assert KEY not in done.output
    assert (
        "1 classes were in no answer's top five, such as 'n00': the model lacks them, or they have few images"
        in done.stderr
    )


@pytest.mark.usefixtures("_n01_is_best")
def test_a_server_that_refuses_is_counted_by_status(some: Path) -> None:
    with slow_service(0, status=lambda number: (500, 200, 0)[number] if number < 3 else 429) as service:
        report = measured(some, "--url", service.url, "--clients", 1, "--limit", 4, code=1)
    assert report["failures"] == {"500": 1, "the connection was lost": 1, "429": 1}
    assert (report["images"], report["figures"]["images"]) == (4, 1)
    assert [error for error in report["errors"] if error["error"].startswith("429 Busy: number")]


def test_the_client_says_when_to_come_back() -> None:
    async def ask(url: str) -> list[int | None]:
        async with LoadClient(url) as client:
            return [(await client.ask(client.post("/classify", b"x"))).retry_after for _ in range(2)]

    with slow_service(0, status=lambda number: 200 if number else 429) as service:
        assert asyncio.run(ask(service.url)) == [RETRY_AFTER, None]


@pytest.mark.usefixtures("_n01_is_best")
def test_ctrl_c_prints_what_was_measured(some: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from app.cli import main; main()"
    with slow_service(0.2) as service:
        command = [sys.executable, "-c", code, "evaluate", str(some), "--url", service.url, "--clients", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: service.requests >= 4)
            process.send_signal(signal.SIGINT)
            output, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "3 of 12 images" in output or "2 of 12 images" in output
    assert "stopped early: these are the figures of a part of the images" in said


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "there is no /nowhere"),
        (["some", "--url", "http://x", "--bundle", "y"], "either --url or --bundle"),
        (["some", "--url", "http://x", "--against", "openvino:f32"], "--against goes with --bundle"),
        (["some", "--url", "http://x", "--scaled-jpeg"], "--scaled-jpeg goes with --bundle"),
        (["some", "--clients", "4"], "--clients goes with --url"),
        (["some", "--against", "openvino"], "--against openvino: must be like openvino:f32"),
        (["some", "--bundle", "/nowhere"], "no bundle at /nowhere"),
        (["some", "--engine", "abacus"], "setting engine: 'abacus' is not one of"),
        (["some", "--plot", "/nowhere/a.png"], "--plot /nowhere/a.png: the folder does not exist"),
        (["some", "--answers", "/nowhere/a.csv"], "/nowhere/a.csv cannot be written: No such file"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    some: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(some.parent)
    done = evaluate(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_classes_that_the_bundle_lacks_are_told_before_an_engine_starts(bundle: Path, some: Path) -> None:
    files = open_files()
    done = evaluate(some, "--bundle", bundle)
    assert done.exit_code == 2
    assert "2 of the data's 2 classes are not among the model's 1000, such as 'n00'; name them by wnid" in done.stderr
    assert open_files() == files


def test_a_second_bundle_has_the_same_classes(bundle: Path, labelled: Labelled, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    labels, manifest = ((other / name).read_bytes() for name in ("labels.json", "manifest.json"))
    changed = labels.replace(b'"tench"', b'"trench"')
    (other / "labels.json").write_bytes(changed)
    old, new = (hashlib.sha256(content).hexdigest().encode() for content in (labels, changed))
    (other / "manifest.json").write_bytes(manifest.replace(old, new))
    files = open_files()
    done = evaluate(labelled.folder(tmp_path / "data"), "--bundle", bundle, "--against-bundle", other)
    assert done.exit_code == 2
    assert f"{other} has other classes than {bundle}: their labels differ" in done.stderr
    assert open_files() == files


def open_files() -> int:
    gc.collect()  # what earlier tests left
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_server_that_cannot_be_reached_is_a_sentence(some: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = evaluate(some, "--url", url)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"error: {url}: the connection is refused\n")


def test_without_matplotlib_a_plot_says_what_to_install(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "app.commands.evaluate.reliability_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    done = evaluate(some, "--plot", "a.png")
    assert done.exit_code == 2
    assert "--plot needs matplotlib: pip install matplotlib" in done.stderr


# Calibrated scores


def test_figures_of_calibrated_scores_are_those_of_a_direct_computation() -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, (3, 200, 7)).astype(np.float32)
    truths = rng.integers(0, 7, 200)
    sets = SetThresholds(
        penalty=0.02,
        free=2,
        thresholds=(CoverageThreshold(coverage=0.9, threshold=0.7, measured_coverage=0.9, mean_size=2),),
    )
    graph = ScoredGraph(graph_sha256="", resize=256, crop=224, activation="softmax")
    fitted = ScoreCalibration(
        precision="f32", resolution=224, fitted_for=graph, temperature=1.6, sets=sets, images=1, top1=0, ece_before=0,
        ece_after=0,
    )  # fmt: skip
    table = PredictionTable()
    for image, truth in enumerate(truths.tolist()):
        prediction = image_prediction(logits[:, image], PLAIN[truth], PLAIN, scoring=Scoring(fitted, 0.9))
        table.add(PLAIN[truth].label, prediction)
    found = table.summary()
    assert found is not None

    wide = logits.astype(np.float64)
    scores, raw = (softmax(wide[0] / temperature, axis=1) for temperature in (1.6, 1.0))
    assert found.confidence == pytest.approx(scores.max(axis=1).mean())
    assert (found.nll, found.raw_nll) == pytest.approx(
        tuple(-np.log(each[np.arange(200), truths]).mean() for each in (scores, raw))
    )
    order = np.argsort(-scores, axis=1)
    descending = np.take_along_axis(scores, order, axis=1)
    each = descending.cumsum(axis=1) - descending / 2 + 0.02 * np.maximum(0, np.arange(1, 8) - 2)
    sizes = np.maximum(1, (each <= 0.7).sum(axis=1))
    places = (order == truths[:, None]).argmax(axis=1)
    assert found.sets is not None
    assert (found.sets.coverage, found.sets.mean_size) == pytest.approx(((places < sizes).mean(), sizes.mean()))
    correct = order[:, 0] == truths
    assert found.error_detection["top score"].auroc == pytest.approx(roc_auc_score(correct, scores.max(axis=1)))
    small, large = (softmax(output, axis=1) for output in wide[1:])
    same = small.argmax(axis=1) == large.argmax(axis=1)
    assert found.same_branches is not None
    assert found.same_branches.share == pytest.approx(same.mean())
    assert found.same_branches.top1 == pytest.approx(correct[same].mean())
    assert found.same_branches.top1_of_others == pytest.approx(correct[~same].mean())
    divergence = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(small, large, strict=True)]
    assert found.error_detection["agreement"].auroc == pytest.approx(roc_auc_score(~correct, divergence))


def test_parts_of_the_images_share_none_and_are_all() -> None:
    parts = [sample(103, None, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(index for part in parts for index in part) == list(range(103))
    assert set(sample(103, 10, "2/3")) < set(parts[1])
    for wrong in ("0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(BadParameter, match="--part"):
            sample(10, None, wrong)
