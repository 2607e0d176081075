import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import main
from app.commands.bench.http_client import HttpAnswer, LoadClient, NoAnswer
from app.commands.bench.load_generator import Load, LoadRun, Sample, drive
from app.commands.bench.load_summary import STAGES, summarize
from app.commands.bench.sample_images import synthetic_images
from app.decoding.image_decoding import decode
from app.errors import BadParameter
from model.spec import Preprocessing
from tests.support.servers import Server, free_port
from tests.support.slow_service import ANSWER, KEY, SlowService, slow_service
from tests.support.waiting import wait_until

QUICK = ("--seconds", "0.3", "--warmup", "0.1")


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], catch_exceptions=False)


def measured(*arguments: object) -> dict[str, Any]:
    done = bench(*arguments, "--format", "json")
    assert done.exit_code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def run_of(seconds: float, load: Load | None = None) -> LoadRun:
    start = time.perf_counter()
    return LoadRun(load or Load(clients=1), start, start + seconds)


def test_a_running_server_is_measured(server: Server, bundle: Path) -> None:
    report = measured("--url", server.url, "--clients", "1,4", "--seconds", 1, "--warmup", 0.1)
    assert (report["model"], report["resolution"], report["precision"]) == (bundle.name, 224, "f32")
    assert report["weights"].startswith("sha256:")
    one, four = report["rows"]
    assert (one["clients"], four["clients"]) == (1, 4)
    for row in (one, four):
        assert set(row["statuses"]) == {"200"}
        assert row["images_per_second"] > 0
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert all(0 <= share < 1 for share in row["shares"].values())
        assert 0 < row["client_cores"] < 0.5
    assert one["shares"]["inference"] > one["shares"]["network"]


def test_a_bundles_engine_is_measured_at_each_batch_size(bundle: Path) -> None:
    report = measured("--bundle", bundle, "--engine", "openvino", "--precision", "f32", "--batch", "1,3", *QUICK)
    assert (report["bundle"], report["engine"], report["precision"]) == (bundle.name, "openvino", "f32")
    for row, batch in zip(report["rows"], (1, 3), strict=True):
        assert row["batch"] == batch
        mean_ms = 1000 * batch / row["images_per_second"]
        assert 0 < row["latency_ms"]["p50"] < 5 * mean_ms
    assert report["decoding"]["images_per_second"] > 1


def test_the_table_says_what_answered_and_what_was_passed_over() -> None:
    with slow_service() as service:
        done = bench("--url", service.url, "--clients", 1, *QUICK)
    assert done.exit_code == 0
    assert "slow at 224: openvino bf16, weights untrained" in done.stdout
    assert all(name in done.stdout for name in ("images/s", "p50 ms", "p90 ms", "p99 ms", *STAGES))
    assert "passed over: tensorrt at 224: no plan" in done.stderr


def test_throughput_and_shares_are_those_of_a_known_service() -> None:
    with slow_service(seconds=0.05) as service:
        (row,) = measured("--url", service.url, "--clients", 2, "--seconds", 0.6, "--warmup", 0.1)["rows"]
    assert row["latency_ms"]["p50"] >= 50
    assert 0 < row["images_per_second"] < 45  # two clients, and no more than 13 answers of 50 ms each
    assert 4 / row["shares"]["decode"] >= 50  # its 4 ms of decoding tell how long the mean request was
    assert row["shares"]["inference"] / row["shares"]["queue"] == pytest.approx(10, rel=0.01)
    assert row["shares"]["service"] / row["shares"]["queue"] == pytest.approx(1, rel=0.01)
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)


def test_what_is_refused_is_counted_and_is_no_throughput() -> None:
    with slow_service(seconds=0.02, status=lambda number: 429 if number % 3 == 1 else 200) as service:
        done = bench("--url", service.url, "--rate", 50, *QUICK, "--format", "json")
    (row,) = json.loads(done.stdout)["rows"]
    assert done.exit_code == 0
    assert sum(row["statuses"].values()) in (14, 15, 16)
    assert row["statuses"]["429"] in (4, 5, 6)
    assert row["images_per_second"] < 45
    assert "429 Busy: number" in done.stderr


def test_a_client_that_was_refused_does_not_ask_again_at_once() -> None:
    with slow_service(status=lambda number: 429 if number else 200) as service:
        bench("--url", service.url, "--clients", 2, *QUICK)
        assert service.requests <= 1 + 2 * 5


def test_without_a_good_answer_the_servers_own_words_and_exit_code_1() -> None:
    with slow_service(status=lambda _: 503) as service:
        done = bench("--url", service.url, "--clients", 1, *QUICK)
    assert done.exit_code == 1
    assert "error: no request was answered with 200; the last: 503 Busy: number" in done.stderr
    assert "503: " in done.stdout


def test_images_that_no_server_takes_are_an_error_before_the_load() -> None:
    with slow_service(status=lambda _: 422) as service:
        done = bench("--url", service.url)
        assert service.requests == len(synthetic_images())
    assert (done.exit_code, done.stdout) == (1, "")
    assert "422 Busy: number 3" in done.stderr


def test_model_and_resolution_are_asked_for() -> None:
    with slow_service() as service:
        measured("--url", service.url, "--model", "slow", "--resolution", 224, "--clients", 1, *QUICK)
        assert set(service.paths) == {"/classify?model=slow&resolution=224"}


def test_a_server_that_cannot_be_reached_is_a_sentence() -> None:
    done = bench("--url", f"http://127.0.0.1:{free_port()}")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: http://127.0.0.1:")
    assert done.stderr.endswith(": the connection is refused\n")


@pytest.mark.parametrize(("given", "form"), [([], "json"), (["--api-key", KEY], "table")])
def test_the_key_is_sent_and_never_printed(given: list[str], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not given:
        monkeypatch.setenv("CROSSVIT_API_KEY", KEY)
    with slow_service(keyed=True) as service:
        done = bench("--url", service.url, "--clients", 1, *QUICK, "--format", form, *given)
        assert done.exit_code == 0
        assert KEY not in done.output
    assert KEY not in bench("--help").output


def test_a_key_that_is_not_known_is_not_printed_either() -> None:
    with slow_service(keyed=True) as service:
        for key, code in (("another-secret", 1), ("another-secret\r\nX: 1", 2)):
            done = bench("--url", service.url, "--api-key", key)
            assert done.exit_code == code
            assert "another-secret" not in done.output
    assert "characters that cannot be sent" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --url or --bundle"),
        (["--url", "http://x", "--bundle", "y"], "either --url or --bundle"),
        (["--url", "http://x", "--batch", "4"], "--batch goes with --bundle"),
        (["--bundle", "x", "--clients", "4"], "--clients goes with --url"),
        (["--url", "http://x", "--clients", "1", "--rate", "4"], "either --clients or --rate"),
        (["--url", "http://x", "--clients", "1,zwei"], "--clients 1,zwei: not numbers"),
        (["--url", "http://x", "--rate", "0"], "--rate 0: not numbers"),
        (["--url", "localhost:8000"], "the URL must be like http://host:8000"),
        (["--url", "http://x", "/nowhere.jpg"], "/nowhere.jpg: No such file"),
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
        (["--bundle", ".", "--engine", "abacus"], "setting engine: 'abacus' is not one of"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_no_image_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    done = bench("--bundle", bundle, tmp_path / "notes.txt")
    assert done.exit_code == 2
    assert "notes.txt: the bytes are not a JPEG" in done.stderr


def test_ctrl_c_prints_what_was_measured() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from app.cli import main; main()"
    with slow_service() as service:
        command = [sys.executable, "-c", code, "bench", "--url", service.url, "--clients", "1,2", "--seconds", "60"]
        with subprocess.Popen(
            [*command, "--warmup", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: service.requests >= 10)
            process.send_signal(signal.SIGINT)
            output, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "1 client" in output
    assert "2 clients" not in output
    assert said.startswith("stopped early; these are the figures up to then\n")


def test_at_a_rate_the_latency_counts_from_when_a_request_was_due() -> None:
    answer = HttpAnswer(200, json.dumps(ANSWER).encode())
    asked: list[float] = []

    async def stalls_once() -> HttpAnswer:
        if not asked:
            time.sleep(0.2)  # noqa: ASYNC251, the client itself is held up, so that the next ones are sent late
        asked.append(time.perf_counter())
        return answer

    async def drive_it() -> LoadRun:
        run = run_of(0.4, Load(rate=100))
        await drive(run, stalls_once)
        return run

    run = asyncio.run(drive_it())
    assert len(run.samples) in (39, 40)  # those that were due meanwhile are not left out
    late = [sample.done - sample.due for sample in sorted(run.samples, key=lambda sample: sample.due)]
    assert late[0] >= 0.2
    assert late[10] >= 0.09
    found = summarize(run)
    assert found is not None
    assert found.latency_ms is not None
    assert found.latency_ms.p90 > 100


def test_requests_wait_for_a_connection_and_the_wait_counts() -> None:
    async def through_one(service: SlowService) -> LoadRun:
        async with LoadClient(service.url, connections=1) as client:
            run = run_of(0.2, Load(rate=50))
            await drive(run, lambda: client.ask(client.post("/classify", b"x")))
            return run

    with slow_service(seconds=0.05) as service:
        run = asyncio.run(through_one(service))
        assert service.connections == 1
    assert len(run.samples) in (9, 10)  # also those that were answered after the end
    assert max(sample.done - sample.due for sample in run.samples) > 0.25


def test_figures_are_of_the_measured_time_alone() -> None:
    good = HttpAnswer(200, json.dumps(ANSWER).encode())
    run = LoadRun(Load(clients=1), 10.0, 12.0, client_seconds=0.5)
    run.samples = [
        Sample(9.9, 10.1, good),  # of the warm-up, answered in time: counts as throughput
        Sample(10.5, 10.6, good),
        Sample(11.0, 11.05, HttpAnswer(504, b"<html>")),
        Sample(11.1, 11.2, NoAnswer("the connection was lost")),
        Sample(11.9, 12.4, good),  # answered too late for the throughput: counts as latency
    ]
    found = summarize(run)
    assert found is not None
    assert (found.images_per_second, found.client_cores) == (1.0, 0.25)
    assert found.statuses == {"200": 2, "504": 1, "the connection was lost": 1}
    assert found.problem == "the connection was lost"
    assert found.latency_ms is not None
    assert found.latency_ms.p50 == pytest.approx(300)
    spent = {"decode": 8, "queue": 2, "inference": 20, "service": 2, "network": 568}  # ms, of the 600 of two requests
    assert found.shares == pytest.approx({stage: ms / 600 for stage, ms in spent.items()}, abs=1e-5)
    assert summarize(LoadRun(Load(clients=1), 10.0, 9.0)) is None
    slow = summarize(LoadRun(Load(clients=1), 10.0, 11.0, [Sample(9.9, 11.1, good)]))
    assert slow is not None
    assert (slow.latency_ms, slow.problem) == (None, "no request began in the measured time: measure for longer")


def test_connections_are_kept_and_lost_ones_replaced() -> None:
    async def ask(service: SlowService) -> list[int | str]:
        statuses: list[int | str] = []
        async with LoadClient(f"{service.url}/") as client:
            for _ in range(4):
                try:
                    statuses.append((await client.ask(client.post("/classify", b"x"))).status)
                except NoAnswer as err:
                    statuses.append(str(err))
        return statuses

    with slow_service(0, status=lambda number: 0 if number == 2 else 200) as service:
        assert asyncio.run(ask(service)) == [200, 200, "the connection was lost", 200]
        assert service.connections == 2


@pytest.mark.parametrize(
    ("sent", "message"), [(b"SSH-2.0-x\r\n", "the answer is not HTTP"), (b"", "no answer within 0.1 s")]
)
def test_a_server_that_speaks_no_http_is_no_answer(sent: bytes, message: str) -> None:
    def speak(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(sent)
            while connection.recv(1000):
                pass

    async def ask(port: int) -> None:
        async with LoadClient(f"http://127.0.0.1:{port}", seconds=0.1) as client:
            await client.ask(client.get("/models"))

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(speak, listening)
        with pytest.raises(NoAnswer, match=message):
            asyncio.run(ask(listening.getsockname()[1]))
        speaking.result(5)


def test_the_url_may_have_a_path_and_no_password() -> None:
    request = LoadClient("https://host/models/").get("/models")
    assert (request.method, str(request.url)) == ("GET", "https://host/models/models")
    with pytest.raises(BadParameter):
        LoadClient("http://me:secret@host")


def test_pictures_made_by_code_decode() -> None:
    for body in synthetic_images().values():
        assert decode(body, Preprocessing(resize=256, crop=224), 500 * 375).shape == (224, 224, 3)
