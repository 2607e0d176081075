"""Shadow, canary and the log of answers in a service of two instances: counted together, reloaded in both."""

import re
import shutil
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests.support.changed_bundles import change_source
from tests.support.pictures import JPEG
from tests.support.servers import StartServer
from tests.support.waiting import wait_until

REQUESTS = 12


def total(text: str, series: str) -> int:
    return sum(int(float(value)) for value in re.findall(rf"^{series}\S* (\S+)$", text, re.MULTILINE))


@pytest.mark.exhaustive
def test_instances_count_together_and_change_together(bundle: Path, start_server: StartServer, tmp_path: Path) -> None:
    for name in ("current", "candidate"):
        shutil.copytree(bundle, tmp_path / "models" / name)
    canary = Path(shutil.copytree(bundle, tmp_path / "next"))
    log = tmp_path / "answers"
    options = ["--bundle", str(tmp_path / "models"), "--default-model", "current", "--shadow", "candidate"]
    options += ["--shadow-percent", "100", "--canary", f"current={canary}", "--canary-percent", "50"]
    options += ["--drift-percent", "100", "--answer-log", str(log), "--answer-log-seconds", "0.2"]
    options += ["--engine", "onnxruntime", "--precision", "f32", "--admin-keys", "boss-of-all", "--instances", "2"]
    server = start_server(*options)
    server.wait_until_ready()

    def metrics() -> str:
        return httpx.get(f"{server.url}/metrics", timeout=60).text

    wait_until(lambda: len(re.findall(r'crossvit_model_ready\{model="[^"]+"\} 1', metrics())) == 3, 120)
    for _ in range(REQUESTS):  # each on a connection of its own, which goes to either instance
        assert httpx.post(f"{server.url}/classify", content=JPEG, timeout=60).status_code == 200
    wait_until(lambda: total(metrics(), "crossvit_shadow_images_total") == REQUESTS)
    assert total(metrics(), "crossvit_canary_requests_total") == REQUESTS
    assert total(metrics(), "crossvit_drift_top_score_count") == REQUESTS
    wait_until(lambda: total(metrics(), "crossvit_answer_log_rows_total") == REQUESTS)
    assert sum(pq.read_metadata(file).num_rows for file in log.glob("*.parquet")) == REQUESTS

    change_source(canary, "another")
    reloaded = httpx.post(f"{server.url}/admin/reload", headers={"Authorization": "Bearer boss-of-all"}, timeout=120)
    assert reloaded.json() == {"faults": []}
    for _ in range(REQUESTS):
        answer = httpx.post(f"{server.url}/classify", content=JPEG, headers={"X-Canary": "always"}, timeout=60).json()
        assert answer["model"]["weights_source"] == "another"
