"""Answers with calibrated scores, prediction sets and the branches' answers."""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from app.decoding.image_decoding import decode
from bundle.file_names import MANIFEST, MODEL
from bundle.manifest import parse_manifest
from bundle.tensors import INPUT, OUTPUTS
from tests.support.calibrations import calibrate_bundle, made_calibration
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

TEMPERATURE, PENALTY, FREE = 0.25, 0.01, 2
THRESHOLDS = {0.8: 0.05, 0.9: 0.1}
ENGINE = ["--engine", "onnxruntime", "--precision", "f32"]
IMAGES = [encoded(scene(300, 200), "PNG"), encoded(scene(64, 64), "PNG")]


@pytest.fixture(scope="module")
def calibrated(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a bundle that is calibrated at 224, and not at 384."""
    folder = tmp_path_factory.mktemp("calibrated")
    copy = Path(shutil.copytree(bundle, folder / bundle.name))
    calibrate_bundle(copy, made_calibration(copy, TEMPERATURE, thresholds=THRESHOLDS))
    with crossvit_serve(folder / "log", "--bundle", str(copy), *ENGINE) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture
def asked(calibrated: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=calibrated.url, timeout=60) as client:
        yield client


def classified(client: httpx.Client, image: bytes = IMAGES[0], **options: Any) -> dict[str, Any]:
    response = client.post("/classify", params=options, content=image)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture(scope="module")
def logits(bundle: Path) -> NDArray[np.float64]:
    """Of the first image, (outputs, classes), by ONNX Runtime without the service."""
    manifest = parse_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
    pixels = decode(IMAGES[0], manifest.preprocessing[224], max_pixels=1 << 20, scaled_jpeg=False)
    session = onnxruntime.InferenceSession(bundle / MODEL)
    return np.concatenate(session.run(list(OUTPUTS), {INPUT: np.asarray(pixels)[None]})).astype(np.float64)


def test_scores_are_of_the_logits_divided_by_the_temperature(asked: httpx.Client, logits: NDArray[np.float64]) -> None:
    answer = classified(asked)
    expected = np.sort(softmax(logits[0] / TEMPERATURE))[::-1][:5]
    assert [each["score"] for each in answer["predictions"]] == pytest.approx(expected.tolist(), rel=1e-4)
    assert answer["model"]["calibrated"] is True
    assert "prediction_set" not in answer
    assert "branches" not in answer


def test_a_resolution_without_a_calibration_says_so(asked: httpx.Client) -> None:
    assert classified(asked, resolution=384)["model"]["calibrated"] is False
    response = asked.post("/classify", params={"resolution": 384, "coverage": 0.9}, content=IMAGES[0])
    assert response.status_code == 422
    assert response.json()["reason"] == "NotCalibrated"
    command = r"crossvit calibrate DATA --bundle (\S+) --resolution 384 --precision f32 makes one"
    (found,) = re.findall(command, response.json()["detail"])
    assert (Path(found) / MANIFEST).is_file()  # the command works from any folder


@pytest.mark.parametrize(("coverage", "fitted"), [(0.5, 0.8), (0.8, 0.8), (0.85, 0.9), (0.9, 0.9)])
def test_the_prediction_set_has_the_best_classes_up_to_the_threshold(
    asked: httpx.Client, logits: NDArray[np.float64], coverage: float, fitted: float
) -> None:
    answer = classified(asked, coverage=coverage, top_k=3)
    shares = softmax(logits[0] / TEMPERATURE)
    order = np.argsort(-shares)
    descending = shares[order]
    ranks = np.arange(1, len(shares) + 1)
    each = descending.cumsum() - descending / 2 + PENALTY * np.maximum(0, ranks - FREE)
    size = max(1, int((each <= THRESHOLDS[fitted]).sum()))
    found = answer["prediction_set"]
    assert found["coverage"] == fitted
    assert [one["index"] for one in found["classes"]] == order[:size].tolist()
    assert [one["rank"] for one in found["classes"]] == list(range(1, size + 1))
    assert found["classes"][:3] == answer["predictions"][:size]
    assert len(answer["predictions"]) == 3


def test_a_coverage_that_was_not_fitted_is_refused(asked: httpx.Client) -> None:
    response = asked.post("/classify", params={"coverage": 0.95}, content=IMAGES[0])
    assert (response.status_code, response.json()["reason"]) == (422, "NotCalibrated")
    assert "up to 0.9 can be had" in response.json()["detail"]


@pytest.mark.parametrize("value", ["0.4", "1", "0.999", "nan", "inf", "ninety", "-0.9"])
def test_an_impossible_coverage_is_refused(asked: httpx.Client, value: str) -> None:
    response = asked.post("/classify", params={"coverage": value}, content=IMAGES[0])
    assert (response.status_code, response.json()["reason"]) == (422, "BadParameter")
    assert "0.5 to 0.99" in response.json()["detail"]


def test_branches_say_what_each_sees_and_how_much_they_differ(asked: httpx.Client, logits: NDArray[np.float64]) -> None:
    branches = classified(asked, details="branches")["branches"]
    _, small, large = (softmax(each) for each in logits)
    for found, expected in ((branches["small"], small), (branches["large"], large)):
        assert (found["rank"], found["index"]) == (1, int(expected.argmax()))
        assert found["score"] == pytest.approx(expected.max(), rel=1e-4)
    assert branches["disagreement"] == pytest.approx(jensenshannon(small, large, base=2) ** 2, abs=1e-5)


def test_details_other_than_branches_are_refused(asked: httpx.Client) -> None:
    response = asked.post("/classify", params={"details": "everything"}, content=IMAGES[0])
    assert response.status_code == 422
    assert "invalid details='everything'" in response.json()["detail"]


def test_the_predictions_do_not_depend_on_what_else_is_asked_for(asked: httpx.Client) -> None:
    plain = classified(asked)["predictions"]
    more = classified(asked, details="branches", coverage=0.9)["predictions"]
    assert [each["index"] for each in more] == [each["index"] for each in plain]
    assert [each["score"] for each in more] == pytest.approx([each["score"] for each in plain], rel=1e-9)


def test_a_batch_has_sets_and_branches_for_each_image(asked: httpx.Client) -> None:
    files = [("files", (f"{number}.png", image)) for number, image in enumerate(IMAGES)]
    files.insert(1, ("files", ("broken.png", IMAGES[0][:100])))
    answer = asked.post("/classify/batch", params={"coverage": 0.9, "details": "branches"}, files=files).json()
    assert answer["model"]["calibrated"] is True
    assert "prediction_set" not in answer["results"][1]
    for result, image in zip((answer["results"][0], answer["results"][2]), IMAGES, strict=True):
        alone = classified(asked, image, coverage=0.9, details="branches")
        for name in ("predictions", "prediction_set", "branches"):
            assert str(alone[name])[:200] == str(result[name])[:200]


def test_options_of_a_form_count_too(asked: httpx.Client) -> None:
    answer = asked.post(
        "/classify", data={"coverage": "0.8", "details": "branches"}, files={"file": ("a.png", IMAGES[0])}
    ).json()
    assert answer["prediction_set"]["coverage"] == 0.8
    assert answer["branches"]["disagreement"] >= 0
    refused = asked.post("/classify", data={"coverage": "0.97"}, files={"file": ("a.png", IMAGES[0])})
    assert refused.json()["reason"] == "NotCalibrated"


def test_models_show_the_calibration(asked: httpx.Client) -> None:
    (info,) = asked.get("/models").json()["models"]
    assert info["calibrated"] is True
    assert info["calibrations"] == [
        {
            "precision": "f32",
            "resolution": 224,
            "temperature": TEMPERATURE,
            "images": 500,
            "data": ["val.zip"],
            "top1": 0.5,
            "ece_before": 0.1,
            "ece_after": 0.02,
            "coverages": [0.8, 0.9],
        }
    ]


@pytest.mark.parametrize("instances", [1, 2])
def test_a_reload_takes_a_new_calibration_without_a_new_engine(
    bundle: Path, tmp_path: Path, start_server: StartServer, logits: NDArray[np.float64], instances: int
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    server = start_server("--bundle", str(copy), *ENGINE, "--instances", str(instances))
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        wait_until(lambda: client.get("/models").json()["instances"]["ready"] == instances, 60)
        plain = classified(client)
        assert plain["model"]["calibrated"] is False
        ready = server.log_text().count(" is ready")
        for temperature in (0.5, 2.0):
            calibrate_bundle(copy, made_calibration(copy, temperature))
            server.process.send_signal(signal.SIGHUP)
            told = "its scores are calibrated in f32 at 224"
            rounds = {0.5: instances, 2.0: 2 * instances}[temperature]
            wait_until(lambda: server.log_text().count(told) >= rounds, 60)  # noqa: B023
            expected = np.sort(softmax(logits[0] / temperature))[::-1][:5]
            for _ in range(4):
                answer = classified(client)
                assert answer["model"]["calibrated"] is True
                assert [each["score"] for each in answer["predictions"]] == pytest.approx(expected.tolist(), rel=1e-4)
        assert server.log_text().count(" is ready") == ready
        (copy / "calibration.json").write_text("{")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.log_text().count("crossvit calibrate makes it anew") >= instances, 60)
        assert classified(client)["predictions"] == plain["predictions"]
