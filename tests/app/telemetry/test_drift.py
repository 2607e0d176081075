"""The figures of answers, computed anew by scipy, and the metrics of a real server."""

import re
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, softmax
from scipy.stats import entropy

from app.telemetry.drift import DriftMetrics, answer_figures
from app.telemetry.metrics import Metrics
from tests.support.pictures import JPEG
from tests.support.servers import StartServer
from tests.support.waiting import wait_until

OUTPUTS = np.random.default_rng(3).normal(0, 3, (3, 40)).astype(np.float32)


def test_figures_of_softmax_are_those_of_scipy() -> None:
    figures = answer_figures(OUTPUTS, "softmax", 0.7)
    expected = softmax(OUTPUTS[0].astype(np.float64) / 0.7)
    assert [index for index, _ in figures.best] == np.argsort(-expected)[:5].tolist()
    assert [score for _, score in figures.best] == pytest.approx(sorted(expected, reverse=True)[:5])
    assert figures.entropy == pytest.approx(entropy(expected, base=2))
    small, large = softmax(OUTPUTS[1].astype(np.float64)), softmax(OUTPUTS[2].astype(np.float64))
    assert figures.disagreement == pytest.approx(jensenshannon(small, large, base=2) ** 2)


def test_figures_of_sigmoid_are_means_over_the_classes() -> None:
    figures = answer_figures(OUTPUTS, "sigmoid")
    own = expit(OUTPUTS[0].astype(np.float64))
    assert figures.entropy == pytest.approx(entropy(np.stack([own, 1 - own]), base=2).mean())


def test_a_sure_answer_has_no_entropy() -> None:
    outputs = np.zeros((3, 10), np.float32)
    outputs[:, 4] = 2000
    figures = answer_figures(outputs, "softmax")
    assert (figures.best[0], figures.entropy, figures.disagreement) == ((4, 1.0), 0.0, 0.0)


@pytest.mark.parametrize(("classes", "counted"), [(1000, 1.0), (1001, None)])
def test_classes_are_counted_where_they_are_not_too_many(classes: int, counted: float | None) -> None:
    metrics = Metrics(list)
    DriftMetrics(metrics).observe("net", classes, answer_figures(OUTPUTS, "softmax"))
    best = str(int(np.argmax(OUTPUTS[0])))
    labels = {"model": "net", "index": best}
    assert metrics.registry.get_sample_value("crossvit_drift_class_images_total", labels) == counted
    assert metrics.registry.get_sample_value("crossvit_drift_entropy_bits_count", {"model": "net"}) == 1


def test_a_server_counts_and_logs_its_answers(bundle: Path, start_server: StartServer, tmp_path: Path) -> None:
    log = tmp_path / "answers"
    options = ["--model-name", "drift"]  # a model may have the name of what looks at it
    options += ["--drift-percent", "100", "--answer-log", str(log), "--answer-log-seconds", "0.2"]
    server = start_server("--bundle", str(bundle), "--engine", "onnxruntime", "--precision", "f32", *options)
    server.wait_until_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        headers = {"X-Request-ID": "drift-1"}
        answer = client.post("/classify?top_k=3&details=branches", content=JPEG, headers=headers).json()
        plain = client.post("/classify", content=JPEG).json()
        assert [each["rank"] for each in plain["predictions"]] == [1, 2, 3, 4, 5]
        batch = client.post("/classify/batch", files=[("files", JPEG), ("files", b"no image"), ("files", JPEG)]).json()
        assert "problem" in batch["results"][1]
        text = client.get("/metrics").text
        for name in ("top_score", "entropy_bits", "disagreement_bits"):
            assert f'crossvit_drift_{name}_count{{model="drift"}} 4.0' in text
        best = answer["predictions"][0]
        assert f'crossvit_drift_class_images_total{{index="{best["index"]}",model="drift"}} 4.0' in text
        wait_until(lambda: 'crossvit_answer_log_rows_total{outcome="written"} 4.0' in client.get("/metrics").text)
    rows = [row for file in sorted(log.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 4
    row = rows[0]
    assert row["request_id"] == "drift-1"
    assert (row["index"], row["wnid"], row["label"]) == (best["index"], best["wnid"], best["label"])
    assert row["score"] == pytest.approx(best["score"])
    assert row["disagreement"] == pytest.approx(answer["branches"]["disagreement"])
    assert row["top_scores"][:3] == pytest.approx([each["score"] for each in answer["predictions"]])
    assert (row["model"], row["resolution"], row["precision"]) == ("drift", 224, "f32")
    assert not re.search("127.0.0.1", str(rows))
    assert not list(log.glob(".*"))


def test_answers_are_the_same_with_the_sample_and_without(
    bundle: Path, start_server: StartServer, client: httpx.Client
) -> None:
    engine = ["--engine", "onnxruntime", "--precision", "f32", "--max-batch", "4"]
    server = start_server("--bundle", str(bundle), "--drift-percent", "100", *engine)
    server.wait_until_ready()
    for path in ("/classify?top_k=7", "/classify?details=branches"):
        sampled = httpx.post(f"{server.url}{path}", content=JPEG, timeout=60).json()
        plain = client.post(path, content=JPEG).json()
        for each in (sampled, plain):
            del each["timing_ms"], each["request_id"]
        assert sampled == plain
