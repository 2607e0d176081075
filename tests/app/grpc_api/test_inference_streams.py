"""Streams of requests: order, what is in flight, deadlines, cancellation, and how many streams there may be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import grpc
import pytest

from app.grpc_api.inference_streams import MAX_IN_FLIGHT
from tests.support.grpc_ports import GrpcServer, failure_of, infer_request, stub_of
from tests.support.reference_network import TINY
from tests.support.waiting import wait_until


class Stream:
    """An open stream; its requests are sent as they come."""

    def __init__(self, stub: Any) -> None:
        self._requests: Queue[Any] = Queue()
        self.answers = stub.ModelStreamInfer(iter(self._requests.get, None))

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put(request)

    def end(self) -> None:
        self._requests.put(None)


@contextmanager
def stream(server: GrpcServer) -> Iterator[Stream]:
    with stub_of(server.address) as stub:
        opened = Stream(stub)
        try:
            yield opened
        finally:
            opened.end()
            opened.answers.cancel()


def waiting(server: GrpcServer) -> float:
    return server.metric("crossvit_queue_images", model=TINY.name)


def test_answers_and_errors_come_in_the_order_of_the_requests(served: GrpcServer) -> None:
    requests = [infer_request("resnet" if index % 3 == 1 else TINY.name, id=str(index)) for index in range(9)]
    requests[3].raw_input_contents[0] = b""
    with stream(served) as opened:
        opened.send(*requests)
        opened.end()
        answers = list(opened.answers)
    assert [answer.infer_response.id for answer in answers] == [request.id for request in requests]
    for index, answer in enumerate(answers):
        if index % 3 == 1:
            assert answer.error_message.startswith("there is no model 'resnet'")
        elif index == 3:
            assert "150528 elements, but the data has 0" in answer.error_message
        else:
            assert answer.error_message == ""
            assert answer.infer_response.outputs[0].name == "logits"


def test_a_stream_is_not_read_from_while_many_of_its_requests_are_unanswered(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    with stream(slow) as opened:
        opened.send(*(infer_request() for _ in range(3 * MAX_IN_FLIGHT)))
        wait_until(lambda: waiting(slow) >= MAX_IN_FLIGHT - 2)
        for _ in range(4):
            next(opened.answers)
            assert waiting(slow) <= MAX_IN_FLIGHT
    wait_until(lambda: waiting(slow) == 0, 5)


def test_a_request_has_the_deadline_that_it_names(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    late = infer_request(id="late")
    late.parameters["timeout"].int64_param = 100_000
    with stream(slow) as opened:
        opened.send(infer_request(id="first"), infer_request(id="second"), late)
        assert next(opened.answers).infer_response.id == "first"
        assert next(opened.answers).infer_response.id == "second"
        answer = next(opened.answers)
    assert answer.infer_response.id == "late"
    assert "deadline" in answer.error_message


def test_each_request_of_a_stream_is_counted(served: GrpcServer) -> None:
    labels = {"route": "/inference.GRPCInferenceService/ModelStreamInfer", "method": "gRPC"}
    before = served.metric("crossvit_requests_total", **labels, status="OK")
    with stream(served) as opened:
        opened.send(infer_request(), infer_request(), infer_request("resnet"))
        opened.end()
        assert len(list(opened.answers)) == 3
    assert served.metric("crossvit_requests_total", **labels, status="OK") == before + 2
    assert served.metric("crossvit_requests_total", **labels, status="NOT_FOUND") >= 1


@pytest.mark.exhaustive
def test_a_further_stream_takes_the_place_of_the_one_that_is_idle_longest(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    with stream(slow) as first, stream(slow) as second:
        for opened in (first, second):
            opened.send(infer_request())
            assert next(opened.answers).error_message == ""
        with stream(slow) as early, pytest.raises(grpc.RpcError) as caught:
            next(early.answers)
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "Overloaded")
        time.sleep(1.1)
        with stream(slow) as third:
            third.send(infer_request())
            assert next(third.answers).error_message == ""
            with pytest.raises(grpc.RpcError) as caught:
                next(first.answers)
            failure = failure_of(caught.value)
            assert failure.code == grpc.StatusCode.UNAVAILABLE
            assert "idle" in failure.text
            second.send(infer_request())
            assert next(second.answers).error_message == ""


@pytest.mark.exhaustive
def test_a_client_that_reads_no_answers_is_cut_off_and_its_requests_leave_the_queue(slow: GrpcServer) -> None:
    wait_until(lambda: waiting(slow) == 0)
    labels = {"route": "/inference.GRPCInferenceService/ModelStreamInfer", "status": "DEADLINE_EXCEEDED"}
    before = slow.metric("crossvit_requests_total", **labels)
    cut_off = slow.metric("crossvit_rejected_total", reason="SlowClient")
    narrow = ("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)
    with stub_of(slow.address, *narrow) as stub:
        opened = Stream(stub)
        opened.send(*(infer_request(count=8) for _ in range(8)))  # the answers are 96 kB each
        wait_until(lambda: waiting(slow) > 0)
        wait_until(lambda: slow.metric("crossvit_requests_total", **labels) > before, 60)
        assert slow.metric("crossvit_rejected_total", reason="SlowClient") == cut_off + 1
        wait_until(lambda: waiting(slow) == 0, 5)
        opened.end()
        opened.answers.cancel()
