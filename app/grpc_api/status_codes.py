"""The gRPC status of each error: code, text, and the details of google.rpc that clients read."""

from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from app.api.problems import retry_after
from app.errors import (
    BadBody,
    BadImage,
    BadInference,
    BadParameter,
    EngineFailed,
    EngineHung,
    Forbidden,
    LoadFailed,
    NoEngine,
    NoImage,
    NoInspection,
    NotAnImage,
    NotCalibrated,
    NotReady,
    Overloaded,
    QueueFull,
    RateLimited,
    SlowClient,
    TooLarge,
    TooLate,
    Unauthorized,
    UnknownCoding,
    UnknownModel,
    WrongAnswers,
)
from bundle.bundle_errors import BadBundle, ExplainedError

Metadata = tuple[tuple[str, str | bytes], ...]

ERROR_DOMAIN = "crossvit"
_MAX_TEXT = 1000  # metadata are limited to some kilobytes

STATUS_CODES: dict[type[ExplainedError], grpc.StatusCode] = {
    NoImage: grpc.StatusCode.INVALID_ARGUMENT,
    BadBody: grpc.StatusCode.INVALID_ARGUMENT,
    BadInference: grpc.StatusCode.INVALID_ARGUMENT,
    BadParameter: grpc.StatusCode.INVALID_ARGUMENT,
    NotAnImage: grpc.StatusCode.INVALID_ARGUMENT,
    BadImage: grpc.StatusCode.INVALID_ARGUMENT,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    NoInspection: grpc.StatusCode.FAILED_PRECONDITION,
    NotCalibrated: grpc.StatusCode.FAILED_PRECONDITION,
    LoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    UnknownCoding: grpc.StatusCode.UNIMPLEMENTED,
    SlowClient: grpc.StatusCode.DEADLINE_EXCEEDED,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    EngineFailed: grpc.StatusCode.INTERNAL,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    WrongAnswers: grpc.StatusCode.UNAVAILABLE,
    BadBundle: grpc.StatusCode.UNAVAILABLE,
    NoEngine: grpc.StatusCode.UNAVAILABLE,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    EngineHung: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class FailedStatus:
    """How a call ends that was refused or has failed: its code, text and trailing metadata."""

    code: grpc.StatusCode
    text: str
    metadata: Metadata


def code_of(err: ExplainedError) -> grpc.StatusCode:
    return next(code for kind, code in STATUS_CODES.items() if isinstance(err, kind))


def failed_status(err: ExplainedError) -> FailedStatus:
    """The status of `err`, with its class as the reason in ErrorInfo, and when to try again.

    The time is in RetryInfo, as `retry-after` in seconds, and as `grpc-retry-pushback-ms`, which clients with a retry
    policy obey. Source: google/rpc/error_details.proto; gRPC proposal A6.
    """
    code, text = code_of(err), str(err)[:_MAX_TEXT]
    details = [_packed(ErrorInfo(reason=type(err).__name__, domain=ERROR_DOMAIN))]
    metadata: Metadata = ()
    if (seconds := retry_after(err)) is not None:
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=seconds))))
        metadata = (("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(1000 * seconds)))
    status = Status(code=code.value[0], message=text, details=details)
    return FailedStatus(code, text, (*metadata, ("grpc-status-details-bin", status.SerializeToString())))


def forget_frames(err: BaseException | None) -> None:
    """Drop the tracebacks of an exception that has been answered, and of what it was raised from.

    Futures keep exceptions, and tracebacks keep frames, with the message and with those futures: such a cycle would
    keep the message in memory until the garbage collector finds it.
    """
    while err is not None:
        cause = err.__cause__ or err.__context__
        err.__traceback__ = err.__cause__ = err.__context__ = None
        err = cause


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
