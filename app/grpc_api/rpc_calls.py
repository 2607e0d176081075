"""What every gRPC call gets, as HTTP requests do: id, deadline, caller, an error's status, log line, metrics."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import grpc

from app.api.auth import AccessLevel
from app.api.dependencies import Service, share_of
from app.api.observability_middleware import REQUEST_ID_HEADER, log_request, request_id_for
from app.api.oip_operations import InferenceCaller, Stages
from app.errors import BadInference, Overloaded, SlowClient
from app.grpc_api.arriving_messages import ArrivingMessages
from app.grpc_api.idle_calls import IdleCalls
from app.grpc_api.inference_messages import parse_message
from app.grpc_api.status_codes import FailedStatus, Metadata, failed_status, forget_frames
from app.serving.canary import REVISION_HEADER
from app.telemetry.answer_log import REQUEST_ID
from app.telemetry.tracing import Tracing
from bundle.bundle_errors import ExplainedError

log = logging.getLogger(__name__)

METHOD_LABEL = "gRPC"  # where HTTP requests have POST or GET
_STOP_SECONDS = 5.0  # for a message that arrives when the port stops
_KEYLESS_SECONDS, _LEAST_KEYLESS_SECONDS = 2.0, 0.2  # for the small message of a call that may need no key
_UNEVENTFUL = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}  # ends of streams
_SERVER_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True)
class RpcMethod:
    """A method of the port, and how its calls are recorded.

    Attributes:
        service: its full name.
        name: of the method.
        probe: its calls are logged as debug, and have no trace.
        keyless: its calls may need no key: they and their messages have places of their own. Probes are.
        streams: its requests are recorded one by one, and a call only if it ends early.
    """

    service: str
    name: str
    probe: bool = False
    streams: bool = False
    keyless: bool = False

    @property
    def route(self) -> str:
        return f"/{self.service}/{self.name}"


@dataclass
class RpcCall:
    """One call, from its headers to its status.

    Attributes:
        context: grpc's own.
        arrivals: let its messages arrive.
        idle: end its waits when the port stops.
        access: the keys and rate limits of the service.
        headers: the metadata that are text; of several with one name the first.
        address: of the client, "" where it has none.
        request_id: the client's own, or a new one.
        started: when its headers arrived, on the clock of time.perf_counter.
        ends: the client's own deadline on that clock, math.inf without one.
        deadline: when its answer must be there: then, or earlier.
        caller: the name of its key.
        model: that it found.
        revision: of it that answers, "canary" or "stable"; "" where there is no canary.
        message_id: that the client gave to its inference.
        stages: of its answer.
    """

    context: Any
    service: Service
    arrivals: ArrivingMessages
    idle: IdleCalls
    headers: dict[str, str]
    address: str
    request_id: str
    started: float
    ends: float
    deadline: float
    caller: str = ""
    model: str = ""
    revision: str = ""
    message_id: str = ""
    stages: Stages = field(default_factory=list)

    async def authorize(self, required: AccessLevel, *, rate_limited: bool = False) -> None:
        """Accept the call if its key allows `required`, and count it if it is `rate_limited`.

        Raises as AccessControl.check and `charge` do. The port is not the admin port.
        """
        self.caller = self.service.access.check(self.headers, None, required)
        if rate_limited:
            await self.service.access.charge(self.headers, None)

    async def charge(self, images: int) -> None:
        """Count the images of a request that was counted as one already; raises as AccessControl.charge."""
        await self.service.access.charge(self.headers, None, images, paid=1)

    def inference_caller(self, deadline: float) -> InferenceCaller:
        return InferenceCaller(share_of(self.caller, self.address), deadline, self.charge)

    async def next_raw(self) -> bytes | None:
        """The next message, None after the last one. Raises SlowClient, and NotReady if the port stops."""
        message = await self.idle.wait(self.arrivals.read(self.context.read), _STOP_SECONDS)
        return None if message is grpc.aio.EOF else message

    async def only_raw(self) -> bytes:
        """The message of a call that has one. Raises as next_raw, and BadInference if it has none."""
        raw = await self.next_raw()
        if raw is None:
            raise BadInference("the call has no message")
        return raw

    async def only_message(self, kind: Any) -> Any:
        """The message of type `kind` of a call that has one. Raises as only_raw and parse_message."""
        return parse_message(kind, await self.only_raw())

    async def send(self, message: Any) -> None:
        """Send `message`. Raises SlowClient if the client does not take it in time."""
        seconds = self.service.settings.body_seconds
        try:
            async with asyncio.timeout(seconds):
                await self.context.write(message.SerializeToString())
        except TimeoutError as err:
            raise SlowClient(f"the client did not read the answer within {seconds:g} s") from err

    def trailers(self) -> Metadata:
        """The trailing metadata that every call gets."""
        revision = ((REVISION_HEADER.lower(), self.revision),) if self.revision else ()
        return ((REQUEST_ID_HEADER.lower(), self.request_id), *revision)

    def record_state(self) -> dict[str, Any]:
        """What logs and traces take of it."""
        return {
            "started": self.started,
            "request_id": self.request_id,
            "caller": self.caller,
            "stages": self.stages,
        }


Serve = Callable[[RpcCall], Awaitable[None]]


class CallRunner:
    """Runs the calls of the port: what they do is given, what they all get is here.

    Messages are read when a handler asks, so that few are in memory at once: every method is a stream to grpc.

    Args:
        service: that is asked.
        tracing: records calls but probes; None for no traces.
    """

    def __init__(self, service: Service, tracing: Tracing | None) -> None:
        settings = service.settings
        self._service = service
        self._tracing = tracing
        self.most_messages = max(1, settings.max_bodies_bytes // settings.max_body_bytes)
        keyless = ArrivingMessages(self.most_messages, _KEYLESS_SECONDS, _LEAST_KEYLESS_SECONDS)
        self._arrivals = {False: ArrivingMessages(self.most_messages, settings.body_seconds), True: keyless}
        self.idle = IdleCalls()
        self._most_calls = settings.max_connections
        self._running = {False: 0, True: 0}  # calls, those of keyless methods apart

    def handler(self, method: RpcMethod, serve: Serve) -> Any:
        """grpc's handler of a method that `serve` answers."""

        async def handle(_: Any, context: Any) -> None:
            await self._run(method, serve, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _run(self, method: RpcMethod, serve: Serve, context: Any) -> None:
        keyless = method.keyless or method.probe
        call = self._call(context, self._arrivals[keyless])
        if self._service.answer_log is not None:
            REQUEST_ID.set(call.request_id)
        code = grpc.StatusCode.OK
        self._running[keyless] += 1
        try:
            failed = await self._failure(method, serve, call)
            if failed is None:
                context.set_trailing_metadata(call.trailers())
            else:
                code = failed.code
                await self._abort(context, code, failed.text, (*call.trailers(), *failed.metadata))
        except grpc.aio.AbortError:
            code = context.code()
            raise
        except asyncio.CancelledError:
            late = time.perf_counter() >= call.ends
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        finally:
            self._running[keyless] -= 1
            if not (method.streams and code in _UNEVENTFUL):
                self.record(method, code, call)

    async def _failure(self, method: RpcMethod, serve: Serve, call: RpcCall) -> FailedStatus | None:
        """Serve the call; how it failed, None if it did not.

        No exception outlives this: the client may take its time to read the status.
        """
        try:
            if self._running[method.keyless or method.probe] > self._most_calls:
                raise Overloaded(f"more than {self._most_calls} calls at once", retry_after=1)
            await serve(call)
        except ExplainedError as err:
            if not method.probe:
                self.count_refusal(err)
            forget_frames(err)
            return failed_status(err)
        except grpc.aio.AbortError:
            raise
        except Exception as err:
            return FailedStatus(grpc.StatusCode.INTERNAL, self.log_defect(call, err), ())
        return None

    async def _abort(self, context: Any, code: grpc.StatusCode, text: str, metadata: Metadata) -> None:
        """End the call with a status, or without if the client does not take it in time. Raises AbortError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._service.settings.body_seconds):
                await context.abort(code, text, metadata)

    def count_refusal(self, err: ExplainedError) -> None:
        self._service.metrics.rejected.labels(type(err).__name__).inc()

    def log_defect(self, call: RpcCall, err: Exception) -> str:
        """Log what should not have been raised; what the client is told of it."""
        log.error("call %s failed", call.request_id, exc_info=err)
        forget_frames(err)
        return "the service failed; see its log"

    def record(self, method: RpcMethod, code: grpc.StatusCode, call: RpcCall) -> None:
        """Count, log and trace a call, or a request of a stream, that has ended now."""
        seconds = time.perf_counter() - call.started
        self._service.metrics.requests.labels(method.route, METHOD_LABEL, code.name).inc()
        self._service.metrics.request_seconds.labels(method.route).observe(seconds)
        state = call.record_state()
        log_request(
            METHOD_LABEL,
            method.route,
            code.name,
            seconds,
            client=call.address,
            state=state,
            model=call.model if code == grpc.StatusCode.OK else None,
            quiet=method.probe,
        )
        if self._tracing is not None and not method.probe:
            failed = code in _SERVER_FAULTS
            self._tracing.record_rpc(method.service, method.name, code.value[0], failed, call.headers, state)

    def _call(self, context: Any, arrivals: ArrivingMessages) -> RpcCall:
        started = time.perf_counter()
        pairs = context.invocation_metadata() or ()
        headers = {name: value for name, value in reversed(pairs) if isinstance(value, str)}
        remaining = context.time_remaining()
        ends = math.inf if remaining is None else started + remaining
        return RpcCall(
            context=context,
            service=self._service,
            arrivals=arrivals,
            idle=self.idle,
            headers=headers,
            address=_address(context.peer()),
            request_id=request_id_for(headers.get(REQUEST_ID_HEADER.lower(), "")),
            started=started,
            ends=ends,
            deadline=min(ends, started + self._service.settings.request_seconds),
        )


async def messages_of(call: RpcCall, kind: Any) -> AsyncIterator[Any]:
    """The messages of type `kind` of a call; raises as RpcCall.next_raw and parse_message."""
    while (raw := await call.next_raw()) is not None:
        yield parse_message(kind, raw)


def _address(peer: str) -> str:
    """The address in a peer such as ipv4:127.0.0.1:1234 or ipv6:%5B::1%5D:1234; an IPv4 address as IPv4."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
