"""What all calls get: keys, rates, deadlines, cancellation, ids, the log and metrics."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pyarrow.parquet as pq
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from tritonclient.grpc import service_pb2

from tests.support.grpc_ports import GrpcServer, failure_of, infer_request, serving_grpc, stub_of
from tests.support.reference_network import TINY
from tests.support.waiting import wait_until

ANN, ROOT = "ann-0123456789", "root-0123456789"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    """A service with keys and a rate limit, whose engine answers at once."""
    options = ["--bundle", str(bundle), "--engine", "null", "--max-body-bytes", "3000000", "--health-access", "key"]
    options += ["--api-keys", f"ann:{ANN}", "--admin-keys", f"root:{ROOT}", "--rate-limit", "20/minute"]
    with serving_grpc(tmp_path_factory.mktemp("guarded") / "log", *options) as server:
        server.http.wait_until_ready(headers={"X-API-Key": ANN})
        yield server


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def refusal(call: Any, *arguments: Any, **options: Any) -> Any:
    """How a call that has to fail failed."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return failure_of(caught.value)


def log_lines(server: GrpcServer, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.http.log_lines()]
    return [line for line in lines if line.get("request_id") == request_id]


# Keys


def test_nobody_is_answered_without_a_key(guarded: GrpcServer) -> None:
    with stub_of(guarded.address) as stub:
        for call, request in (
            (stub.ModelInfer, infer_request()),
            (stub.ModelMetadata, service_pb2.ModelMetadataRequest(name=TINY.name)),
            (stub.ModelReady, service_pb2.ModelReadyRequest(name=TINY.name)),
            (stub.ServerLive, service_pb2.ServerLiveRequest()),
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
        ):
            for metadata in ((), bearer("unknown-0123456789"), (("x-api-key", ""),)):
                failure = refusal(call, request, metadata=metadata)
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "Unauthorized")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ModelStreamInfer(iter([infer_request()])))
        assert failure_of(caught.value).code == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(guarded.address) as channel:
        failure = refusal(HealthStub(channel).Check, health_pb2.HealthCheckRequest())
        assert failure.code == grpc.StatusCode.UNAUTHENTICATED
        checked = HealthStub(channel).Check(health_pb2.HealthCheckRequest(), metadata=bearer(ANN))
        assert checked.status == health_pb2.HealthCheckResponse.SERVING


def test_a_key_is_taken_as_http_takes_it(guarded: GrpcServer) -> None:
    request = service_pb2.ServerMetadataRequest()
    with stub_of(guarded.address) as stub:
        for metadata in (bearer(ANN), (("x-api-key", ANN),), bearer(ROOT)):
            assert stub.ServerMetadata(request, metadata=metadata).name == "crossvit"


def test_models_are_changed_with_an_admin_key_only(guarded: GrpcServer) -> None:
    with stub_of(guarded.address) as stub:
        request = service_pb2.RepositoryModelLoadRequest(model_name=TINY.name)
        failure = refusal(stub.RepositoryModelLoad, request, metadata=bearer(ANN))
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "Forbidden")
        stub.RepositoryModelLoad(request, metadata=bearer(ROOT))


def test_the_rate_of_a_key_counts_the_images_of_both_protocols(guarded: GrpcServer) -> None:
    with stub_of(guarded.address) as stub:
        stub.ModelInfer(infer_request(count=15), metadata=bearer(ANN))
        over_http = httpx.post(
            f"{guarded.http.url}/v2/models/{TINY.name}/infer", content=b"", headers={"X-API-Key": ANN}
        )
        assert over_http.status_code == 400
        failure = refusal(stub.ModelInfer, infer_request(count=8), metadata=bearer(ANN))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RateLimited")
        assert "the limit of 20 images per minute" in failure.text
        assert failure.retry_seconds
        assert 1 <= failure.retry_seconds <= 60
        assert failure.trailers["retry-after"] == str(failure.retry_seconds)
        assert failure.trailers["grpc-retry-pushback-ms"] == str(1000 * failure.retry_seconds)
        stub.ModelInfer(infer_request(count=19), metadata=bearer(ROOT))


# The log, ids and metrics


def test_a_call_has_an_id_and_a_line_in_the_log_without_its_key(guarded: GrpcServer) -> None:
    with stub_of(guarded.address) as stub:
        request = service_pb2.ModelReadyRequest(name=TINY.name)
        _, call = stub.ModelReady.with_call(request, metadata=(*bearer(ANN), ("x-request-id", "my-id-1")))
        assert dict(call.trailing_metadata())["x-request-id"] == "my-id-1"
        _, call = stub.ModelReady.with_call(request, metadata=(*bearer(ANN), ("x-request-id", "not harmless")))
        assert len(dict(call.trailing_metadata())["x-request-id"]) == 32
        failure = refusal(stub.ModelReady, request, metadata=(("x-request-id", "my-id-2"),))
        assert failure.trailers["x-request-id"] == "my-id-2"
    (line,) = wait_until(lambda: log_lines(guarded, "my-id-1"))
    assert line | {"ms": 0, "timestamp": ""} == {
        "method": "gRPC",
        "route": "/inference.GRPCInferenceService/ModelReady",
        "status": "OK",
        "ms": 0,
        "request_id": "my-id-1",
        "client": "127.0.0.1",
        "caller": "ann",
        "event": "request",
        "level": "info",
        "logger": "app.request",
        "timestamp": "",
    }
    (line,) = wait_until(lambda: log_lines(guarded, "my-id-2"))
    assert line["status"] == "UNAUTHENTICATED"
    assert ANN not in guarded.http.log_text()


def test_calls_are_counted_beside_requests(served: GrpcServer) -> None:
    labels = {"route": INFER, "method": "gRPC"}
    before = served.metric("crossvit_requests_total", **labels, status="OK")
    refused = served.metric("crossvit_rejected_total", reason="UnknownModel")
    with stub_of(served.address) as stub:
        stub.ModelInfer(infer_request(), metadata=(("x-request-id", "counted"),))
        refusal(stub.ModelInfer, infer_request("resnet"))
    assert wait_until(lambda: served.metric("crossvit_requests_total", **labels, status="OK") == before + 1)
    assert served.metric("crossvit_requests_total", **labels, status="NOT_FOUND") >= 1
    assert served.metric("crossvit_rejected_total", reason="UnknownModel") == refused + 1
    assert served.metric("crossvit_request_seconds_count", route=INFER) >= 2
    (line,) = wait_until(lambda: log_lines(served, "counted"))
    assert line["model"] == TINY.name
    assert line["inference"] > 0


@pytest.mark.exhaustive
def test_a_canary_answers_calls_and_the_log_of_answers_has_their_ids(bundle: Path, tmp_path: Path) -> None:
    canary, log = shutil.copytree(bundle, tmp_path / "next"), tmp_path / "answers"
    options = ["--bundle", str(bundle), "--engine", "null", "--canary", f"{bundle.name}={canary}"]
    options += ["--canary-percent", "0", "--drift-percent", "100"]
    options += ["--answer-log", str(log), "--answer-log-seconds", "0.2"]
    with serving_grpc(tmp_path / "log", *options) as server, stub_of(server.address) as stub:
        server.http.wait_until_ready()
        wait_until(lambda: server.metric("crossvit_model_ready", model=f"{bundle.name}@canary") == 1)
        for header, revision in (("always", "canary"), ("never", "stable"), ("", "stable")):
            metadata = (("x-canary", header), ("x-request-id", f"id-{header or 'none'}"))
            response, call = stub.ModelInfer.with_call(infer_request(), metadata=metadata)
            assert dict(call.trailing_metadata())["x-model-revision"] == revision
            assert (response.model_name, response.parameters["revision"].string_param) == (bundle.name, revision)
        wait_until(lambda: server.metric("crossvit_answer_log_rows_total") == 3)
        rows = [row for file in log.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert {row["request_id"] for row in rows} == {"id-always", "id-never", "id-none"}


# The queue, deadlines and cancellation


def waiting(server: GrpcServer) -> float:
    return server.metric("crossvit_queue_images", model=TINY.name)


def answered(server: GrpcServer) -> float:
    return server.metric("crossvit_decode_seconds_count", model=TINY.name)


def test_a_full_queue_says_when_to_try_again(slow: GrpcServer) -> None:
    with stub_of(slow.address) as stub:
        calls = [stub.ModelInfer.future(infer_request(count=8)) for _ in range(5)]
        wait_until(lambda: waiting(slow) > 28)
        failure = refusal(stub.ModelInfer, infer_request(count=8))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QueueFull")
        assert failure.retry_seconds
        for call in calls:
            call.cancel()
        wait_until(lambda: waiting(slow) == 0)


def test_a_cancelled_call_gives_its_place_back_and_never_reaches_the_engine(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    before = answered(slow)
    with stub_of(slow.address) as stub:
        first = stub.ModelInfer.future(infer_request(count=2))
        wait_until(lambda: waiting(slow) > 0)
        second = stub.ModelInfer.future(infer_request(count=4), metadata=(("x-request-id", "cancelled"),))
        wait_until(lambda: waiting(slow) >= 4)
        second.cancel()
        wait_until(lambda: waiting(slow) <= 1)
        first.result(timeout=30)
        assert answered(slow) == before + 2
    (line,) = wait_until(lambda: log_lines(slow, "cancelled"))
    assert line["status"] == "CANCELLED"


def test_a_deadline_ends_the_call_here_too(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    before = answered(slow)
    with stub_of(slow.address) as stub:
        first = stub.ModelInfer.future(infer_request(count=4))
        wait_until(lambda: waiting(slow) >= 2)
        failure = refusal(stub.ModelInfer, infer_request(), timeout=0.3, metadata=(("x-request-id", "late"),))
        assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED
        (line,) = wait_until(lambda: log_lines(slow, "late"))
        assert line["status"] == "DEADLINE_EXCEEDED"
        request = infer_request()
        request.parameters["timeout"].int64_param = 200_000
        failure = refusal(stub.ModelInfer, request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TooLate")
        first.result(timeout=30)
        assert answered(slow) == before + 4
        request.parameters["timeout"].int64_param = -1
        assert refusal(stub.ModelInfer, request).code == grpc.StatusCode.INVALID_ARGUMENT
        request.parameters["timeout"].int64_param = 0  # none
        assert stub.ModelInfer(request).outputs


# Messages


def test_a_message_that_does_not_come_ends_the_call_and_keeps_nobody_out(slow: GrpcServer) -> None:
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(30)
        yield from ()

    with grpc.insecure_channel(slow.address) as channel, ThreadPoolExecutor(4) as pool, stub_of(slow.address) as stub:
        stalled = channel.stream_unary(INFER)
        calls = [pool.submit(refusal, stalled, never()) for _ in range(3)]
        started = time.monotonic()
        try:
            stub.ModelInfer(infer_request(), timeout=10)
            assert {call.result(20).reason for call in calls} <= {"SlowClient", "Overloaded"}
        finally:
            ended.set()
    assert time.monotonic() - started < 10


@pytest.mark.exhaustive
def test_reflection_calls_without_a_message_hold_up_neither_inference_nor_probes(served: GrpcServer) -> None:
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(30)
        yield from ()

    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with grpc.insecure_channel(served.address) as channel, stub_of(served.address) as stub:
        calls = [channel.stream_stream(path)(nothing()) for _ in range(60)]
        time.sleep(0.5)
        started = time.monotonic()
        stub.ModelInfer(infer_request(), timeout=5)
        stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
        assert time.monotonic() - started < 2
        with pytest.raises(grpc.RpcError):
            next(calls[0])
        ended.set()


@pytest.mark.exhaustive
def test_refused_messages_do_not_stay_in_memory(served: GrpcServer) -> None:
    request = infer_request()
    request.raw_input_contents[0] = bytes(2_900_000)
    process = psutil.Process(served.http.pid)
    with stub_of(served.address) as stub:
        for _ in range(10):
            refusal(stub.ModelInfer, request)
        before = process.memory_info().rss
        for _ in range(40):
            assert refusal(stub.ModelInfer, request).reason == "BadInference"
        answers = stub.ModelStreamInfer(iter([request] * 40))
        assert sum("elements" in answer.error_message for answer in answers) == 40
    assert process.memory_info().rss - before < 40_000_000


@pytest.mark.parametrize(
    ("messages", "text"), [([], "the call has no message"), ([b"\xff\xff"], "the message is no inference")]
)
def test_what_is_no_message_is_an_invalid_argument(served: GrpcServer, messages: list[bytes], text: str) -> None:
    with grpc.insecure_channel(served.address) as channel:
        failure = refusal(channel.stream_unary(INFER), iter(messages))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert text in failure.text


def test_compressed_messages_are_refused_since_they_could_grow_without_a_limit(served: GrpcServer) -> None:
    with stub_of(served.address) as stub:
        failure = refusal(stub.ModelInfer, infer_request(), compression=grpc.Compression.Gzip)
    assert failure.code == grpc.StatusCode.UNIMPLEMENTED


def test_a_method_that_is_not_served_is_unimplemented(served: GrpcServer) -> None:
    with stub_of(served.address) as stub:
        failure = refusal(stub.TraceSetting, service_pb2.TraceSettingRequest())
    assert failure.code == grpc.StatusCode.UNIMPLEMENTED
