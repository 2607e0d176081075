"""A real server that is stopped, restarted, reloaded, and whose engine fails, while clients go on asking."""

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import BadParameter
from app.server.listening_sockets import listen
from tests.support.changed_bundles import change_source
from tests.support.nginx import AVAILABLE, Nginx, nginx
from tests.support.pictures import JPEG
from tests.support.processes import workers
from tests.support.raw_http import connect, head, wait_until_read
from tests.support.servers import Server, StartServer, crossvit_serve, free_port
from tests.support.waiting import until, wait_until

ENGINE = ("--engine", "onnxruntime", "--precision", "f32")
PAUSE_SECONDS = 0.1  # of a client between two requests


@asynccontextmanager
async def clients(url: str, count: int, trust: ssl.SSLContext | bool = True) -> AsyncIterator[Counter[str]]:
    """Clients that ask again and again; how often which answer came, or which error."""
    answers: Counter[str] = Counter()
    going = True

    async def ask(client: httpx.AsyncClient) -> None:
        while going:
            try:
                response = await client.post(f"{url}/classify", files={"file": JPEG})
                answers[str(response.status_code)] += 1
            except httpx.HTTPError as err:
                answers[repr(err)] += 1
            await asyncio.sleep(PAUSE_SECONDS)  # else they take the CPUs that what starts meanwhile needs

    async with httpx.AsyncClient(timeout=60, verify=trust) as client:
        tasks = [asyncio.create_task(ask(client)) for _ in range(count)]
        try:
            yield answers
        finally:
            going = False
            await asyncio.gather(*tasks)


def state(server: Server) -> int:
    return httpx.get(f"{server.url}/readyz").status_code


def refuses_connections(server: Server) -> bool:
    try:
        httpx.get(f"{server.url}/livez")
    except httpx.TransportError as err:
        return isinstance(err, httpx.ConnectError)
    return False


def have_ended(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_stop_is_seen_first_then_nothing_accepted_is_lost(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--grace-seconds", "3")
    server.wait_until_ready()
    with ThreadPoolExecutor(64) as pool, httpx.Client(base_url=server.url) as kept:
        server.process.send_signal(signal.SIGUSR2)  # it is for the parent of several instances
        assert "connection" not in kept.get("/livez").headers
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        stopping = wait_until(lambda: answer if (answer := kept.get("/readyz")).status_code == 503 else None)
        assert stopping.headers["Connection"] == "close"
        assert "the service is stopping" in stopping.json()["detail"]
        accepted = [
            pool.submit(httpx.post, f"{server.url}/classify", files={"file": JPEG}, timeout=60) for _ in range(16)
        ]
        assert {request.result().status_code for request in accepted} == {200}
        assert server.process.wait(30) == 0
    assert time.monotonic() - started >= 3
    assert workers(server.process.pid) == []


def test_what_was_accepted_when_the_port_closes_is_finished(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE)  # without a grace period
    server.wait_until_ready()
    (engine,), (decoder,) = (workers(server.process.pid, role) for role in ("engine", "decoder"))
    os.kill(engine, signal.SIGSTOP)
    os.kill(decoder, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        accepted = [
            pool.submit(httpx.post, f"{server.url}/classify", files={"file": JPEG}, timeout=60) for _ in range(8)
        ]
        wait_until(lambda: 'queue_images{model="crossvit_tiny"} 8.0' in httpx.get(f"{server.url}/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        os.kill(decoder, signal.SIGCONT)
        wait_until(lambda: refuses_connections(server))
        os.kill(engine, signal.SIGCONT)
        assert {request.result().status_code for request in accepted} == {200}
    assert server.process.wait(30) == 0


def test_what_cannot_be_finished_in_time_is_answered_with_503(bundle: Path, start_server: StartServer) -> None:
    slow = ["--engine", "null", "--null-rate", "0.3", "--drain-seconds", "1"]
    server = start_server("--bundle", str(bundle), *slow)
    server.wait_until_ready()
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(httpx.post, f"{server.url}/classify", content=JPEG, timeout=60) for _ in range(4)]
        waiting = 'queue_images{model="crossvit_tiny"} 3.0'  # one is in the engine
        wait_until(lambda: waiting in httpx.get(f"{server.url}/metrics").text)
        time.sleep(0.2)
        assert waiting in httpx.get(f"{server.url}/metrics").text
        server.process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in accepted]
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {answer.json()["reason"] for answer in answers} == {"NotReady"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log_text()


def test_requests_that_have_arrived_in_a_pipeline_are_answered_when_the_service_stops(
    bundle: Path, start_server: StartServer
) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--grace-seconds", "20", "--engine-seconds", "60")
    server.wait_until_ready()
    (engine,) = workers(server.process.pid, "engine")
    os.kill(engine, signal.SIGSTOP)
    request = b"POST /classify HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n\r\n%s" % (len(JPEG), JPEG)
    with connect(server) as connection:
        connection.sendall(3 * request)
        time.sleep(1)  # the first request reaches the engine, and reading pauses
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: state(server) == 503)
        os.kill(engine, signal.SIGCONT)
        answered = b""
        while piece := connection.recv(1 << 16):
            answered += piece
    assert answered.count(b"HTTP/1.1 200 ") == 3
    assert answered.count(b"connection: close") == 1
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_status_0_while_it_loads_and_while_clients_stall(
    bundle: Path, start_server: StartServer, number: signal.Signals
) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--body-seconds", "2")
    if number == signal.SIGTERM:
        server.wait_until_ready()
        idle = connect(server)
        stalled = connect(server)
        stalled.sendall(head(1000) + b"x")
        wait_until_read(stalled)
    else:
        server.wait_until_alive()
    server.process.send_signal(number)
    assert server.process.wait(25) == 0  # 30 s are the default for a body
    assert "Traceback" not in server.log_text()
    if number == signal.SIGTERM:
        stalled.close()
        idle.close()


def takes(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16) >> (number - 1) & 1)


def signalled(bundle: Path, number: signal.Signals, after: float) -> tuple[int | None, str, list[int]]:
    """The exit status of a server that gets a signal `after` seconds, what it wrote, its workers; None if it goes on.

    The seconds count from when it takes signals: before that it is the interpreter that starts.
    """
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), *ENGINE, "--decoders", "1", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        wait_until(lambda: takes(process.pid, signal.SIGHUP))
        time.sleep(after)
        left = workers(process.pid)
        process.send_signal(number)
        return process.wait(1.5 if number == signal.SIGHUP else 20), process.stderr.read(), left
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        return None, process.stderr.read(), left
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_any_time_of_the_start_does_what_it_does_later(bundle: Path, number: signal.Signals) -> None:
    for after in (0, 0.3, 0.7, 1.4):
        status, wrote, workers = signalled(bundle, number, after)
        assert status == (None if number == signal.SIGHUP else 0), (after, wrote)
        assert "Traceback" not in wrote
        wait_until(lambda: have_ended(workers))  # noqa: B023


def test_a_service_whose_log_nobody_reads_answers_and_stops(bundle: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), *ENGINE, "--port", str(port)]
    options = ["--grace-seconds", "0", "--log-level", "debug", "--decoders", "1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        server = Server(process, f"http://127.0.0.1:{port}", Path(os.devnull))
        server.wait_until_alive()
        with httpx.Client(base_url=server.url, timeout=10) as client:
            for _ in range(100):  # a line each
                assert client.get("/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.communicate()


def test_all_addresses_of_a_host_are_listened_on(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--host", "::", "--admin-port", "0")
    port = server.url.rpartition(":")[2]
    server.wait_until_alive()  # on 127.0.0.1
    assert httpx.get(f"http://[::1]:{port}/livez").status_code == 200
    assert f"listening on http://[::]:{port}" in server.log_text()
    httpx.get(f"{server.url}/models")
    httpx.get(f"http://[::1]:{port}/models")

    def clients_told() -> list[str]:
        lines = [json.loads(line) for line in server.log_lines()]
        return [line["client"] for line in lines if line["event"] == "request"]

    wait_until(lambda: clients_told() == ["127.0.0.1", "::1"])


@pytest.mark.parametrize(
    ("host", "detail"),
    [
        ("nowhere.invalid", "'nowhere.invalid' is not the name or address of a host"),
        ("192.0.2.200", "Cannot assign requested address"),
        ("", "is not the name"),
        ("http://localhost", "is not the name"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_refused_with_the_reason(host: str, detail: str) -> None:
    with pytest.raises(BadParameter, match=detail):
        listen(host, 0, 5)


def test_a_host_is_written_in_brackets_too_and_every_address_has_the_same_port(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    lookup = socket.getaddrinfo

    def both(host: str, *given: Any, **named: Any) -> list[Any]:
        names = ["192.0.2.200", "127.0.0.1", "::1"] if host == "twofold" else [host]  # the first is not this machine's
        return [found for name in names for found in lookup(name, *given, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    for host, count in (("[::1]", 1), ("twofold", 2)):
        listening = listen(host, 0, 5)
        assert len(listening) == count
        (port,) = {listener.getsockname()[1] for listener in listening}
        assert caplog.messages[-1] == f"listening on http://[::1]:{port}"
        with pytest.raises(BadParameter, match=rf"\[::1\]:{port}: Address already in use"):
            listen("::1", port, 5)
        for listener in listening:
            listener.close()


def test_a_worker_that_hangs_at_its_start_does_not_hold_up_the_end(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE)
    server.wait_until_alive()
    engines = workers(server.process.pid, "engine")
    os.kill(engines[0], signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert not Path(f"/proc/{engines[0]}").exists()


def test_workers_end_with_a_service_that_is_killed(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE)
    server.wait_until_ready()
    left = workers(server.process.pid)
    assert len(left) >= 2
    server.process.kill()
    server.process.wait()
    wait_until(lambda: have_ended(left))


def test_a_failed_engine_fails_its_batch_is_seen_and_comes_back(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    for name in ("a", "b"):
        shutil.copytree(bundle, tmp_path / "models" / name)
    options = ["--bundle", str(tmp_path / "models"), "--default-model", "a", "--engine-seconds", "1"]
    server = start_server(*options, *ENGINE, "--max-batch", "1")
    server.wait_until_ready()

    def classify(model: str) -> httpx.Response:
        return httpx.post(f"{server.url}/classify?model={model}", files={"file": JPEG}, timeout=60)

    wait_until(lambda: classify("b").status_code == 200, seconds=60)
    for fault, status in ((signal.SIGKILL, 503), (signal.SIGSTOP, 504)):
        os.kill(workers(server.process.pid, "engine a")[0], fault)
        if fault == signal.SIGKILL:  # it is noticed without a request
            wait_until(lambda: state(server) != 200)
        failed = classify("a")
        assert failed.status_code == status
        assert "is being started again" in failed.json()["detail"]
        assert state(server) == 503
        refused = classify("a")
        assert refused.status_code == 503
        assert "its engine is being started again" in refused.json()["detail"]
        assert classify("b").status_code == 200
        server.wait_until_ready()
        assert classify("a").status_code == 200
    metrics = httpx.get(f"{server.url}/metrics").text
    for reason in ("ended", "hung"):
        assert re.search(rf'crossvit_engine_restarts_total{{model="a",reason="{reason}"}} 1.0', metrics)


def test_deep_readiness_asks_the_engine_itself(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--engine-seconds", "1")
    server.wait_until_ready()

    def deep() -> httpx.Response:
        return httpx.get(f"{server.url}/readyz?deep=1", timeout=30)

    assert deep().json() == {"status": "ready"}
    (engine,) = workers(server.process.pid, "engine")
    os.kill(engine, signal.SIGSTOP)
    assert state(server) == 200  # nobody has asked the engine
    wait_until(lambda: deep().status_code == 504)  # the last proof counts for a second
    assert state(server) == 503
    server.wait_until_ready()
    assert deep().status_code == 200


def test_models_are_replaced_under_load_without_a_lost_request(
    bundle: Path, tmp_path: Path, start_server: StartServer
) -> None:
    served = Path(shutil.copytree(bundle, tmp_path / "served"))
    server = start_server("--bundle", str(served), *ENGINE, "--admin-port", str(free_port()))
    server.wait_until_ready()

    def source() -> str:
        return str(httpx.get(f"{server.url}/models").json()["models"][0]["weights_source"])

    async def main() -> None:
        async with clients(server.url, count=4) as answers:
            change_source(served, "by signal")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: source() == "by signal")
            (served / "labels.json").write_text("[]")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: "is not the file" in httpx.get(f"{server.url}/models").json()["models"][0]["reason"])
            before = answers.total()
            await until(lambda: answers.total() > before + 10)
        assert answers.keys() == {"200"}
        assert answers.total() > 15

    asyncio.run(main())
    assert len(workers(server.process.pid, "engine")) == 1  # those of the old models have ended


@pytest.mark.skipif(not AVAILABLE, reason="nginx or openssl is not installed")
def test_rolling_restarts_behind_nginx_lose_no_request(bundle: Path, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]

    def start(number: int, port: int) -> Server:
        options = ["--bundle", str(bundle), *ENGINE, "--grace-seconds", "1"]
        return stack.enter_context(crossvit_serve(tmp_path / f"{number}.log", *options, port=port))

    async def main(proxy: Nginx) -> Counter[str]:
        async with clients(proxy.url, count=2, trust=proxy.trust) as answers:
            await until(lambda: answers.total() > 10)
            for number in (2, 3):
                old = servers[number % 2]
                old.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(old.process.wait, 40) == 0
                servers[number % 2] = start(number, ports[number % 2])
                await asyncio.to_thread(servers[number % 2].wait_until_ready)
                before = answers.total()
                await until(lambda: answers.total() > before + 10)  # noqa: B023, it is awaited here
        return answers

    with ExitStack() as stack:
        servers = [start(number, port) for number, port in enumerate(ports)]
        for server in servers:
            server.wait_until_ready()
        with nginx(tmp_path, ports) as proxy:
            assert httpx.get(f"{proxy.plain}/x").headers["Location"] == "https://127.0.0.1/x"
            answers = asyncio.run(main(proxy))
    assert answers.keys() == {"200"}
    assert answers.total() > 30
