"""The port from its opening to its end: alone, beside instances, and under clients that go on asking."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from tritonclient.grpc import service_pb2

from tests.support.grpc_ports import GrpcServer, failure_of, infer_request, serving_grpc, stub_of
from tests.support.processes import instances
from tests.support.reference_network import TINY
from tests.support.waiting import wait_until

NULL = ("--engine", "null")
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def started(bundle: Path, folder: Path, *options: str) -> Iterator[GrpcServer]:
    with serving_grpc(folder / "server.log", "--bundle", str(bundle), *NULL, *options) as server:
        server.http.wait_until_ready()
        yield server


@contextmanager
def clients(server: GrpcServer, count: int) -> Iterator[Counter[str]]:
    """Clients that ask again and again on channels of their own; how often which status came."""
    statuses: Counter[str] = Counter()
    going = True

    def ask() -> None:
        with stub_of(server.address) as stub:
            while going:
                try:
                    stub.ModelInfer(infer_request(), timeout=30)
                    statuses["OK"] += 1
                except grpc.RpcError as err:
                    statuses[failure_of(err).code.name] += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        going = False
        for thread in threads:
            thread.join()


def waiting(server: GrpcServer) -> float:
    return server.metric("crossvit_queue_images", model=TINY.name)


def health(server: GrpcServer) -> Any:
    with grpc.insecure_channel(server.address) as channel:
        return HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def listens(server: GrpcServer) -> bool:
    host, _, port = server.address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_stop_is_seen_first_then_what_was_accepted_is_answered(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--null-rate", "4", "--max-batch", "1", "--grace-seconds", "1.5") as server:
        with stub_of(server.address) as stub:
            calls = [stub.ModelInfer.future(infer_request()) for _ in range(8)]
            wait_until(lambda: waiting(server) >= 6)
            server.http.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            wait_until(lambda: health(server) == NOT_SERVING, 1.2)
            stub.ModelInfer(infer_request())  # in the grace period it is still answered
            wait_until(lambda: not listens(server), 10)
            assert time.monotonic() - begun >= 1.4
            assert len([call.result(timeout=30).outputs for call in calls]) == 8
        assert server.http.process.wait(20) == 0
    assert "Traceback" not in server.http.log_text()


def test_a_stream_that_is_idle_does_not_hold_up_the_end(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path) as server, stub_of(server.address) as stub:
        ended = threading.Event()

        def requests() -> Iterator[Any]:
            yield infer_request()
            ended.wait(60)

        answers = stub.ModelStreamInfer(requests())
        assert next(answers).error_message == ""
        server.http.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert failure_of(caught.value).code == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in failure_of(caught.value).text
        assert server.http.process.wait(10) == 0
        ended.set()


@pytest.mark.exhaustive
def test_calls_that_wait_do_not_hold_up_the_end(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--drain-seconds", "60") as server, grpc.insecure_channel(server.address) as channel:
        ended = threading.Event()

        def nothing() -> Iterator[bytes]:
            ended.wait(60)
            yield from ()

        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status != NOT_SERVING
        calls = channel.stream_stream("/inference.GRPCInferenceService/ModelInfer")(nothing())
        time.sleep(0.5)
        server.http.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        for call in (watch, calls):
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert failure_of(caught.value).code == grpc.StatusCode.UNAVAILABLE
        assert server.http.process.wait(15) == 0
        ended.set()


@pytest.mark.exhaustive
def test_connections_are_renewed_at_their_age_and_no_call_notices(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--grpc-connection-seconds", "0.5") as server:
        peers = set()
        with stub_of(server.address) as stub:
            begun = time.monotonic()
            while time.monotonic() - begun < 2.5:
                stub.ModelInfer(infer_request())
                peers |= established(server)
        assert len(peers) >= 2


def established(server: GrpcServer) -> set[int]:
    """The clients' ports of the connections to the gRPC port."""
    own = f":{int(server.address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[1].endswith(own) and row[3] == "01"}


@pytest.mark.exhaustive
def test_connections_beyond_the_limit_are_refused(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--max-connections", "3") as server:
        request = service_pb2.ServerLiveRequest()
        with stub_of(server.address) as one, stub_of(server.address) as two, stub_of(server.address) as three:
            for stub in (one, two, three):
                stub.ServerLive(request, timeout=10)
            with stub_of(server.address) as four, pytest.raises(grpc.RpcError) as caught:
                four.ServerLive(request, timeout=2)
        assert failure_of(caught.value).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_it_is_off_unless_a_port_is_given_and_then_nothing_of_it_is_loaded(bundle: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from app.configuration.settings import Settings
        from app.main import create_app
        app = create_app(Settings(bundle=Path({str(bundle)!r}), engine="null"))
        assert app.state.grpc_port is None
        assert not {{"grpc", "google.protobuf", "app.grpc_api"}} & set(sys.modules), sorted(sys.modules)
    """
    subprocess.run([sys.executable, "-c", "if True:" + code], check=True)


def serve(bundle: Path, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """`crossvit serve` that has to end by itself."""
    arguments = ["serve", "--bundle", str(bundle), *NULL, "--port", "0", *options]
    code = f"{before}\nimport sys; sys.argv[1:] = {arguments!r}\nfrom app.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("count", ["1", pytest.param("2", marks=pytest.mark.exhaustive)])
def test_without_the_extra_the_command_that_installs_it_is_named(bundle: Path, count: str) -> None:
    missing = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.startswith(("grpc", "google.")) else found(name, *more)
"""
    done = serve(bundle, "--grpc-port", "0", "--instances", count, before=missing)
    assert done.returncode == 2
    missed = "--grpc-port needs grpc and grpc_health and grpc_reflection and google.protobuf and google.rpc"
    assert missed in done.stderr.replace("\n", " ")
    assert "[grpc]'" in done.stderr.replace("\n", "")


def test_a_port_that_is_taken_is_told_at_the_start(bundle: Path, served: GrpcServer) -> None:
    """Though the sockets of both could share it."""
    done = serve(bundle, "--grpc-port", served.address.rpartition(":")[2])
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr


@pytest.mark.exhaustive
def test_a_port_may_be_chosen_by_the_system_on_all_addresses(bundle: Path, tmp_path: Path) -> None:
    with started(bundle, tmp_path, "--grpc-port", "0", "--host", "::") as server:
        (line,) = [line for line in server.http.log_lines() if "for gRPC" in line]
        port = line.partition(" for gRPC")[0].rpartition(":")[2]
        for host in ("127.0.0.1", "::1"):
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            with stub_of(address) as stub:
                assert stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=5).name == "crossvit"
        wait_until(lambda: callers(server) == ["127.0.0.1", "::1"])


def callers(server: GrpcServer) -> list[str]:
    """The addresses of those who called, as the log has them."""
    lines = [json.loads(line) for line in server.http.log_lines()]
    return [line["client"] for line in lines if line.get("method") == "gRPC"]


@pytest.fixture(scope="module")
def pair(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A service of two instances."""
    folder = tmp_path_factory.mktemp("pair")
    with started(bundle, folder, "--instances", "2", "--grpc-connection-seconds", "1") as server:
        wait_until(lambda: sum("is ready" in line for line in server.http.log_lines()) >= 2)
        yield server


def answering(server: GrpcServer) -> dict[int, int]:
    """How many calls each instance has answered, as the log has it."""
    lines = [json.loads(line) for line in server.http.log_lines()]
    return Counter(line["instance"] for line in lines if line.get("method") == "gRPC")


def test_connections_spread_over_the_instances_and_their_counts_are_summed(pair: GrpcServer) -> None:
    labels = {"route": "/inference.GRPCInferenceService/ModelReady", "method": "gRPC", "status": "OK"}

    def ask() -> bool:
        with stub_of(pair.address) as stub:
            stub.ModelReady(service_pb2.ModelReadyRequest(name=TINY.name))
        return len(answering(pair)) == 2

    wait_until(ask)
    wait_until(lambda: pair.metric("crossvit_requests_total", **labels) == sum(answering(pair).values()))
    assert health(pair) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.exhaustive
def test_instances_are_replaced_without_a_failed_call(pair: GrpcServer) -> None:
    before = instances(pair.http.pid)
    with clients(pair, 4) as statuses:
        wait_until(lambda: statuses["OK"] > 10)
        pair.http.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "all instances are replaced" in pair.http.log_text(), 60)
        answered = statuses["OK"]
        wait_until(lambda: statuses["OK"] > answered + 10)
    assert not before.items() & instances(pair.http.pid).items()
    assert statuses.keys() == {"OK"}


@pytest.mark.exhaustive
def test_clients_go_on_when_an_instance_is_killed(pair: GrpcServer) -> None:
    with clients(pair, 4) as statuses:
        wait_until(lambda: statuses["OK"] > 10)
        os.kill(instances(pair.http.pid)[1], signal.SIGKILL)
        answered = statuses["OK"]
        wait_until(lambda: statuses["OK"] > answered + 40)
    assert statuses.keys() <= {"OK", "UNAVAILABLE"}
    assert statuses["UNAVAILABLE"] <= 8


@pytest.mark.exhaustive
def test_all_instances_end_together_after_their_calls(bundle: Path, tmp_path: Path) -> None:
    options = ["--instances", "2", "--null-rate", "4", "--max-batch", "1"]
    with started(bundle, tmp_path, *options) as server, stub_of(server.address) as stub:
        calls = [stub.ModelInfer.future(infer_request()) for _ in range(6)]
        wait_until(lambda: waiting(server) >= 4)
        server.http.process.send_signal(signal.SIGTERM)
        assert len([call.result(timeout=20) for call in calls]) == 6
        assert server.http.process.wait(20) == 0
