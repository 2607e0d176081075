"""Traces as a collector receives them: one that speaks OTLP over HTTP, in a thread of the test."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from app.errors import BadParameter
from app.telemetry import tracing
from app.telemetry.tracing import Tracing
from app.timing import Interval
from tests.support.pictures import encoded, scene
from tests.support.servers import Server, crossvit_serve, free_port
from tests.support.waiting import wait_until

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")

JPEG = encoded(scene(300, 300), "JPEG")
KEY = "kei-0123456789-abcdef"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, ERROR = 2, 2


@dataclass
class Received:
    """A span, in Python's own types."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    status: int
    attributes: dict[str, str | int]
    resource: dict[str, str | int]


@dataclass
class Collector:
    port: int
    spans: list[Received] = field(default_factory=list)
    raw: bytes = b""
    paths: set[str] = field(default_factory=set)

    def wait_for(self, request_id: str, seconds: float = 30) -> list[Received]:
        """The spans of the trace that has this request, its own first."""

        def found() -> list[Received]:
            spans = list(self.spans)
            return [span for span in spans if span.attributes.get("crossvit.request_id") == request_id]

        (span,) = wait_until(found, seconds)
        return [span, *(other for other in self.spans if other.trace == span.trace and other is not span)]

    def take(self, body: bytes) -> None:
        request = service.ExportTraceServiceRequest.FromString(body)
        self.raw += body
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            self.spans += [_received(span, resource) for scope in group.scope_spans for span in scope.spans]


def _plain(attributes: object) -> dict[str, str | int]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value"))
        for item in attributes  # type: ignore[attr-defined]
    }


def _received(span: object, resource: dict[str, str | int]) -> Received:
    return Received(
        span.name,  # type: ignore[attr-defined]
        span.trace_id.hex(),  # type: ignore[attr-defined]
        span.span_id.hex(),  # type: ignore[attr-defined]
        span.parent_span_id.hex(),  # type: ignore[attr-defined]
        span.kind,  # type: ignore[attr-defined]
        span.start_time_unix_nano,  # type: ignore[attr-defined]
        span.end_time_unix_nano,  # type: ignore[attr-defined]
        span.status.code,  # type: ignore[attr-defined]
        _plain(span.attributes),  # type: ignore[attr-defined]
        resource,
    )


CollectorT = TypeVar("CollectorT", bound=Collector)


@contextmanager
def collecting(collector: CollectorT) -> Iterator[CollectorT]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.paths.add(self.path)
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", collector.port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def collector() -> Collector:
    return Collector(free_port())


@pytest.fixture
def received(collector: Collector) -> Iterator[Collector]:
    with collecting(collector):
        yield collector


@pytest.fixture(scope="module")
def traced(bundle: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("traced") / "log"
    options = ["--engine", "onnxruntime", "--precision", "f32", "--log-format", "json", "--api-keys", f"ann:{KEY}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds, of the SDK
        patch.setenv("CROSSVIT_OTLP_ENDPOINT", f"http://user:{KEY}@127.0.0.1:{collector.port}/")
        server = crossvit_serve(log, "--bundle", str(bundle), *options)
        started = server.__enter__()
    try:
        started.wait_until_ready()
        yield started
    finally:
        server.__exit__(None, None, None)


@pytest.fixture
def caller(traced: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=traced.url, timeout=60, headers={"X-API-Key": KEY}) as client:
        yield client


def sent(client: httpx.Client, path: str = "/classify", traceparent: str = "", **more: str) -> str:
    """The id of a request that has been answered."""
    headers = ({"traceparent": traceparent} if traceparent else {}) | more
    response = client.post(path, files={"file": JPEG}, headers=headers)
    return response.headers["X-Request-ID"]


def test_a_request_is_a_span_of_the_callers_trace_with_its_stages_as_children(
    caller: httpx.Client, received: Collector
) -> None:
    began = time.time_ns()
    span, *stages = received.wait_for(sent(caller, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="x=y"))
    ended = time.time_ns()
    assert (span.name, span.kind, span.trace, span.parent) == ("POST /classify", SERVER, TRACE, PARENT)
    expected = {"http.request.method": "POST", "http.route": "/classify", "http.response.status_code": 200}
    assert expected.items() <= span.attributes.items()
    assert span.resource["service.name"] == "crossvit"
    assert {stage.name for stage in stages} == {"decoder_wait", "decode", "queue", "inference"}
    assert {(stage.trace, stage.parent) for stage in stages} == {(TRACE, span.id)}
    wait, decode, queue, inference = (
        next(stage for stage in stages if stage.name == name)
        for name in ("decoder_wait", "decode", "queue", "inference")
    )
    assert began < span.start < wait.start <= wait.end <= decode.start < decode.end < ended
    assert decode.end <= queue.start <= queue.end <= inference.start < inference.end <= span.end < ended
    assert received.paths == {"/v1/traces"}


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{32 * '0'}-{PARENT}-01", f"00-{TRACE}-{PARENT}"])
def test_a_request_without_a_callers_trace_begins_one(
    caller: httpx.Client, received: Collector, traceparent: str
) -> None:
    span, *stages = received.wait_for(sent(caller, traceparent=traceparent))
    assert span.parent == ""
    assert span.trace not in (TRACE, 32 * "0")
    assert len(stages) == 4


def test_each_request_is_a_trace_of_its_own(caller: httpx.Client, received: Collector) -> None:
    traces = {received.wait_for(sent(caller))[0].trace for _ in range(2)}
    assert len(traces) == 2


def test_a_caller_that_does_not_sample_is_not_traced_and_probes_never_are(
    caller: httpx.Client, received: Collector
) -> None:
    unsampled = sent(caller, traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
    probes = [caller.get(path).headers["X-Request-ID"] for path in ("/livez", "/readyz", "/metrics")]
    received.wait_for(sent(caller))
    seen = {span.attributes.get("crossvit.request_id") for span in received.spans}
    assert not seen & {unsampled, *probes}


def test_spans_have_the_route_and_the_status_and_no_key(caller: httpx.Client, received: Collector) -> None:
    expected = [
        (f"/v2/models/{KEY}/versions/1/infer", "POST /v2/models/{name}/versions/{version}/infer", 404),
        (f"/classify?model={KEY}", "POST /classify", 404),
        (f"/{KEY}", "POST other", 404),
    ]
    for path, name, status in expected:
        span, *stages = received.wait_for(sent(caller, path))
        assert (span.name, span.attributes["http.response.status_code"], span.status) == (name, status, 0)
        assert not stages
    assert KEY.encode() not in received.raw


def test_a_collector_that_is_down_is_one_line_of_the_log_and_its_return_another(
    caller: httpx.Client, traced: Server, collector: Collector
) -> None:
    def complaints() -> list[str]:
        lines = traced.log_text().splitlines()
        return [line for line in lines if "opentelemetry" in line or "traces are sent" in line]

    before = len(complaints())
    for _ in range(12):
        sent(caller)
        time.sleep(0.15)  # longer than the time between two attempts to send, which nothing shows
    wait_until(lambda: len(complaints()) > before)
    assert len(complaints()) == before + 1
    assert "127.0.0.1" in complaints()[-1]
    with collecting(collector):
        collector.wait_for(sent(caller))
    wait_until(lambda: len(complaints()) > before + 1)
    assert "traces are sent again" in complaints()[-1]
    assert len(complaints()) == before + 2
    assert KEY not in traced.log_text()


class Hanging(Collector):
    """Answers no export before `release` is set."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.exports = 0
        self.release = threading.Event()

    def take(self, body: bytes) -> None:
        self.exports += 1
        self.release.wait(60)
        super().take(body)


def test_requests_are_answered_while_a_collector_hangs(caller: httpx.Client, collector: Collector) -> None:
    with collecting(Hanging(collector.port)) as hanging:
        try:
            sent(caller)
            wait_until(lambda: hanging.exports)
            requests = [sent(caller) for _ in range(6)]
            assert hanging.exports < len(requests)  # else each of them has waited for the end of its export
        finally:
            hanging.release.set()
        hanging.wait_for(requests[-1])


def test_spans_that_wait_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    with collecting(Collector(free_port())) as last:
        traces = Tracing(f"http://127.0.0.1:{last.port}")
        now = time.perf_counter()
        state = {"started": now - 1, "request_id": "last", "stages": [("decode", Interval(now - 0.5, now - 0.25))]}
        traces.record("POST", "/classify", 500, {}, state)
        assert not last.spans
        traces.close()
        span, decode = last.wait_for("last", seconds=0.1)
    assert span.status == ERROR
    assert span.end - span.start >= 10**9
    assert decode.end - decode.start == pytest.approx(0.25e9, abs=1e4)


def test_a_grpc_call_is_a_span_of_its_service_and_method() -> None:
    with collecting(Collector(free_port())) as last:
        traces = Tracing(f"http://127.0.0.1:{last.port}")
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        state = {"started": time.perf_counter(), "request_id": "call", "stages": []}
        traces.record_rpc("inference.GRPCInferenceService", "ModelInfer", 14, True, headers, state)
        traces.close()
        (span,) = last.wait_for("call", seconds=0.1)
    assert (span.name, span.trace, span.parent) == ("inference.GRPCInferenceService/ModelInfer", TRACE, PARENT)
    assert (span.kind, span.status) == (SERVER, ERROR)
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 14,
        "crossvit.request_id": "call",
    }


def test_a_collector_that_hangs_does_not_keep_the_service_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    monkeypatch.setattr(tracing, "_CLOSE_SECONDS", 0.2)
    before = set(threading.enumerate())
    with collecting(Hanging(free_port())) as hanging:
        traces = Tracing(f"http://127.0.0.1:{hanging.port}")
        state = {"started": time.perf_counter(), "request_id": "x", "stages": []}
        traces.record("POST", "/classify", 200, {}, state)
        started = time.perf_counter()
        traces.close()
        assert time.perf_counter() - started < 20
        hanging.release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)  # else it tries again beside other tests
        assert not thread.is_alive()


def test_traces_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadParameter, match=r"pip install .*\[otel\]'"):
        Tracing("http://127.0.0.1:4318")


def test_nothing_that_sends_traces_is_loaded_unless_an_endpoint_is_set(bundle: Path) -> None:
    script = (
        "import sys; from app.main import create_app; create_app(); "
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    environment = os.environ | {
        "CROSSVIT_BUNDLE": str(bundle),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_TRACES_EXPORTER": "otlp",
    }
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 0
