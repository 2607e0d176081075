import gc
import weakref

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from app.api.problems import STATUS
from app.errors import QueueFull, RateLimited, UnknownModel
from app.grpc_api.status_codes import STATUS_CODES, code_of, failed_status, forget_frames
from bundle.bundle_errors import ExplainedError

# What clients repeat by themselves, and balancers send elsewhere, is the same in both protocols.
TRIED_AGAIN = {429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE}


def test_every_error_that_http_has_a_status_for_has_a_code() -> None:
    assert STATUS_CODES.keys() == STATUS.keys()
    for kind, status in STATUS.items():
        code = STATUS_CODES[kind]
        assert code == TRIED_AGAIN.get(status, code)
        assert (code in TRIED_AGAIN.values()) == (status in TRIED_AGAIN)
        assert code != grpc.StatusCode.UNKNOWN


def test_an_error_says_its_reason_and_when_to_try_again() -> None:
    failed = failed_status(RateLimited("the limit is reached", retry_after=7))
    assert (failed.code, failed.text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the limit is reached")
    trailers = dict(failed.metadata)
    assert (trailers["retry-after"], trailers["grpc-retry-pushback-ms"]) == ("7", "7000")
    status = Status.FromString(bytes(trailers["grpc-status-details-bin"]))  # type: ignore[arg-type]
    assert (status.code, status.message) == (8, "the limit is reached")
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain, retry.retry_delay.seconds) == ("RateLimited", "crossvit", 7)


def test_an_error_without_a_time_names_none() -> None:
    trailers = dict(failed_status(UnknownModel("there is no model")).metadata)
    assert trailers.keys() == {"grpc-status-details-bin"}


def test_the_times_of_a_full_queue_are_spread() -> None:
    assert len({dict(failed_status(QueueFull("full", 20)).metadata)["retry-after"] for _ in range(50)}) > 3


def test_a_long_text_is_cut() -> None:
    assert len(failed_status(UnknownModel("x" * 5000)).text) == 1000


def test_a_kind_of_an_error_has_its_code() -> None:
    class Special(QueueFull):
        """A queue that is full in its own way."""

    assert code_of(Special("full")) == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(StopIteration):
        code_of(ExplainedError("of no kind"))


def test_what_was_refused_leaves_memory_without_the_garbage_collector() -> None:
    class Message:
        pass

    def refuse(kept: list[BaseException]) -> weakref.ref[Message]:
        message = Message()
        try:
            try:
                raise ValueError(len(kept))
            except ValueError as cause:
                kept.append(cause)
                raise QueueFull("full", retry_after=1) from cause
        except QueueFull as err:
            kept.append(err)
            forget_frames(err)
        return weakref.ref(message)

    gc.disable()
    try:
        kept: list[BaseException] = []
        assert refuse(kept)() is None
        assert len(kept) == 2
    finally:
        gc.enable()
