"""resolution=auto: the cheap step of a cascade first, and brown-outs."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.calibrations import calibrate_bundle, made_calibration, made_cascade
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

ADMIN = {"Authorization": "Bearer boss-of-all"}
ENGINE = ["--engine", "onnxruntime", "--precision", "f32"]
OPTIONS = [*ENGINE, "--admin-keys", "boss-of-all"]
IMAGES = [encoded(scene(120, 90, seed)) for seed in range(6)]
BROWN_OUT = "X-Brown-Out"


def copied(bundle: Path, place: Path) -> Path:
    return Path(shutil.copytree(bundle, place))


def cascaded(bundle: Path, place: Path, threshold: float, second: Path | None = None) -> Path:
    """A copy of `bundle`, calibrated, with a cascade from 224 to 384, or to `second` at 384."""
    copy = copied(bundle, place)
    cascade = made_cascade(copy, threshold, second=second)
    calibrate_bundle(copy, made_calibration(copy), made_calibration(copy, 0.7, resolution=384), cascade=cascade)
    return copy


@pytest.fixture(scope="module")
def pair(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of three models: `cheap`, whose cascade ends with `dear`, and `alone`, whose own resolutions are one."""
    folder = tmp_path_factory.mktemp("cascades")
    models = folder / "models"
    dear = copied(bundle, models / "dear")
    cascaded(bundle, models / "cheap", 0.0, dear)
    cascaded(bundle, models / "alone", 0.0)
    with crossvit_serve(folder / "log", "--bundle", str(models), "--default-model", "alone", *OPTIONS) as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            scores = [classified(client, image)["predictions"][0]["score"] for image in IMAGES]
            threshold = sum(sorted(scores)[2:4]) / 2  # half of the images are sent on, and none is near it
            for name in ("cheap", "alone"):
                second = dear if name == "cheap" else None
                calibrate_bundle(models / name, cascade=made_cascade(models / name, threshold, second=second))
            assert client.post("/admin/reload", headers=ADMIN).json() == {"faults": []}
        yield server


@pytest.fixture
def asked(pair: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pair.url, timeout=60) as client:
        yield client


def classified(client: httpx.Client, image: bytes, **options: Any) -> dict[str, Any]:
    response = client.post("/classify", params=options, content=image)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(("name", "second"), [("alone", "alone"), ("cheap", "dear")])
def test_the_second_step_answers_only_where_the_first_is_not_sure(asked: httpx.Client, name: str, second: str) -> None:
    steps = []
    for image in IMAGES:
        answer = classified(asked, image, model=name, resolution="auto")
        steps.append(answer["step"]["number"])
        model, resolution = (name, 224) if steps[-1] == 1 else (second, 384)
        alone = classified(asked, image, model=model, resolution=resolution)
        assert answer["step"]["of"] == 2
        assert answer["model"] == alone["model"]
        assert [each["index"] for each in answer["predictions"]] == [each["index"] for each in alone["predictions"]]
        first = classified(asked, image, model=name, resolution=224)["predictions"][0]["score"]
        if steps[-1] == 1:
            assert answer["predictions"][0]["score"] == pytest.approx(first)
        assert answer["timing_ms"]["total"] >= answer["timing_ms"]["inference"] > 0
    assert sorted(steps) == [1, 1, 1, 2, 2, 2]


def test_a_batch_takes_the_steps_image_by_image(asked: httpx.Client) -> None:
    files = [("files", (f"{number}.png", image)) for number, image in enumerate(IMAGES)]
    files.insert(2, ("files", ("broken.png", IMAGES[0][:200])))
    answer = asked.post("/classify/batch", params={"resolution": "auto", "model": "cheap"}, files=files).json()
    assert answer["results"][2]["problem"]["reason"] == "BadImage"
    results = [result for result in answer["results"] if "problem" not in result]
    for result, image in zip(results, IMAGES, strict=True):
        alone = classified(asked, image, resolution="auto", model="cheap")
        assert (result["step"], result["model"]) == (alone["step"], alone["model"])
        assert [each["index"] for each in result["predictions"]] == [each["index"] for each in alone["predictions"]]


def test_branches_are_those_of_the_step_that_answered(asked: httpx.Client) -> None:
    for image in IMAGES:
        answer = classified(asked, image, resolution="auto", details="branches")
        resolution = {1: 224, 2: 384}[answer["step"]["number"]]
        alone = classified(asked, image, resolution=resolution, details="branches")
        assert answer["branches"]["small"]["index"] == alone["branches"]["small"]["index"]
        assert answer["branches"]["disagreement"] == pytest.approx(alone["branches"]["disagreement"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "reason", "text"),
    [
        ({"resolution": "auto", "coverage": 0.9}, "BadParameter", "coverage goes with one resolution"),
        (
            {"resolution": "auto", "model": "dear"},
            "NotCalibrated",
            "begins with dear, and there is none",
        ),
        ({"resolution": "automatic"}, "BadParameter", "invalid resolution='automatic'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    asked: httpx.Client, options: dict[str, Any], reason: str, text: str
) -> None:
    for response in (
        asked.post("/classify", params=options, content=IMAGES[0]),
        asked.post("/classify", data=options, files={"file": ("a.png", IMAGES[0])}),
    ):
        assert (response.status_code, response.json()["reason"]) == (422, reason)
        assert text in response.json()["detail"]


def test_models_and_metrics_show_cascades(asked: httpx.Client) -> None:
    classified(asked, IMAGES[0], resolution="auto", model="cheap")
    models = {each["name"]: each for each in asked.get("/models").json()["models"]}
    (cascade,) = models["cheap"]["cascades"]
    assert [(step["model"], step["resolution"]) for step in cascade["steps"]] == [("cheap", 224), ("dear", 384)]
    assert (cascade["served"], models["dear"]["cascades"]) == (True, [])
    assert 'crossvit_cascade_answers_total{model="cheap",step="1"}' in asked.get("/metrics").text


def test_a_cascade_whose_second_model_is_unloaded_says_so(asked: httpx.Client) -> None:
    assert asked.post("/v2/repository/models/dear/unload", headers=ADMIN).status_code == 200
    try:
        response = asked.post("/classify", params={"resolution": "auto", "model": "cheap"}, content=IMAGES[0])
        assert (response.status_code, response.json()["reason"]) == (503, "NotReady")
        (cascade,) = next(each for each in asked.get("/models").json()["models"] if each["name"] == "cheap")["cascades"]
        assert cascade["served"] is False
    finally:
        assert asked.post("/v2/repository/models/dear/load", headers=ADMIN).status_code == 200


def test_second_steps_need_room_in_the_queue_like_other_images(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    """The engine that computes nothing is never sure: all images of a batch are sent on, into a queue that is full."""
    copy = cascaded(bundle, tmp_path / "slow", 0.9)
    limits = ["--max-queue", "4", "--max-images", "4", "--max-batch", "1", "--preload", "384"]
    server = start_server("--bundle", str(copy), "--engine", "null", "--null-rate", "4", *limits)
    server.wait_until_ready()
    done: list[bool] = []

    def fill(_: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not done:
                client.post("/classify", content=IMAGES[0])

    with ThreadPoolExecutor(6) as threads, httpx.Client(base_url=server.url, timeout=60) as client:
        batch = threads.submit(
            lambda: client.post(
                "/classify/batch",
                params={"resolution": "auto"},
                files=[("files", (f"{number}.png", IMAGES[number])) for number in range(4)],
            )
        )
        time.sleep(0.3)
        fillers = [threads.submit(fill, number) for number in range(5)]
        answer = batch.result().json()
        done.append(True)
        for filler in fillers:
            filler.result()
    reasons = [result.get("problem", {}).get("reason", "") for result in answer["results"]]
    assert "QueueFull" in reasons
    assert set(reasons) <= {"QueueFull", ""}


# Brown-out


@pytest.mark.parametrize("instances", [1, 2])
def test_under_load_cheaper_steps_answer_and_afterwards_the_others_do_again(
    bundle: Path, tmp_path: Path, start_server: StartServer, instances: int
) -> None:
    copy = cascaded(bundle, tmp_path / "slow", 0.9)
    manifest_default = ["--brown-out", "0.2,0.5", "--preload", "384", "--instances", str(instances)]
    server = start_server("--bundle", str(copy), "--engine", "null", "--null-rate", "20", *manifest_default)
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        before = client.post("/classify", params={"resolution": "auto"}, content=IMAGES[0])
        assert before.json()["step"] == {"number": 2, "of": 2}
        assert BROWN_OUT not in before.headers

        def ask(_: int) -> httpx.Response:
            with httpx.Client(base_url=server.url, timeout=60) as one:
                return one.post("/classify", params={"resolution": "auto"}, content=IMAGES[0])

        with ThreadPoolExecutor(40) as threads:
            responses = [each for each in threads.map(ask, range(160)) if each.status_code == 200]
        changed = [each for each in responses if BROWN_OUT in each.headers]
        assert len(changed) > 20
        assert all(each.json()["step"] == {"number": 1, "of": 2} for each in changed)
        assert all(each.json()["model"]["resolution"] == 224 for each in changed)
        kept = [each for each in responses if BROWN_OUT not in each.headers]
        assert all(each.json()["step"]["number"] == 2 for each in kept)
        assert (
            f'crossvit_brown_out_answers_total{{model="slow",rung="1"}} {len(changed)}.0' in client.get("/metrics").text
        )

        def calm() -> bool:
            response = client.post("/classify", params={"resolution": "auto"}, content=IMAGES[0])
            return BROWN_OUT not in response.headers and bool(response.json()["step"]["number"] == 2)

        wait_until(calm, 30, poll_seconds=0.3)
        assert 'crossvit_brown_out_rung{model="slow"}' in client.get("/metrics").text


def test_the_second_rung_answers_requests_that_name_no_resolution_from_the_first_step(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    models = tmp_path / "models"
    dear = copied(bundle, models / "dear")
    cheap = copied(bundle, models / "cheap")
    calibrate_bundle(cheap, made_calibration(cheap), cascade=made_cascade(cheap, 0.9, second=dear, resolution=224))
    rungs = ["--brown-out", "0.2,0.4", "--default-model", "dear"]
    server = start_server("--bundle", str(models), "--engine", "null", "--null-rate", "20", *rungs)
    server.wait_until_ready()

    def ask(number: int) -> httpx.Response:
        with httpx.Client(base_url=server.url, timeout=60) as one:
            return one.post("/classify", params={"resolution": 224} if number % 8 == 0 else {}, content=IMAGES[0])

    with ThreadPoolExecutor(40) as threads:
        responses = dict(enumerate(threads.map(ask, range(160))))
    answered = {number: each for number, each in responses.items() if each.status_code == 200}
    changed = [each for each in answered.values() if BROWN_OUT in each.headers]
    assert len(changed) > 20
    assert {(each.headers[BROWN_OUT], each.json()["model"]["name"]) for each in changed} == {("2", "cheap")}
    named = [each for number, each in answered.items() if number % 8 == 0]
    assert {each.json()["model"]["name"] for each in named} == {"dear"}
    assert all("step" not in each.json() for each in named)


def test_thresholds_that_do_not_ascend_are_refused(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(tmp_path), "--brown-out", "3,1")
    assert server.process.wait(60) == 2
    assert "ascending" in server.log_text()
