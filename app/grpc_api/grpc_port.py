"""The gRPC port of this process: what it serves, its limits, and how it opens and closes."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc

from app.api.dependencies import Service
from app.configuration.settings import Settings
from app.grpc_api.health_service import HEALTH_SERVICE, HealthService
from app.grpc_api.inference_messages import INFERENCE_SERVICE
from app.grpc_api.inference_methods import InferenceMethods
from app.grpc_api.inference_streams import STREAM_METHOD, InferenceStreams
from app.grpc_api.reflection_service import REFLECTION_SERVICE, ReflectionService
from app.grpc_api.rpc_calls import CallRunner, RpcMethod
from app.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_MAX_CONCURRENT_STREAMS = 100  # calls of a connection, as most servers have it; a client lets further ones wait
_PING_SECONDS, _PING_TIMEOUT_SECONDS = 60, 20  # to notice that a client has gone
_LEAST_CLIENT_PING_SECONDS = 10  # a client that pings more often is cut off
_RETRY_SECONDS = 1.0  # after which it tries again to listen
_ONLY_IDENTITY = 1  # a bit for each compression; grpc's core decompresses without a limit


class GrpcPort:
    """Serves gRPC on `addresses`, while it accepts.

    grpc's core cannot listen on a socket that it is given, and cannot pause. So each time it accepts there is a new
    server of its own on the same addresses, beside those of other instances (SO_REUSEPORT).

    Attributes:
        addresses: such as 127.0.0.1:8001; set before it accepts.

    Args:
        service: that is asked.
        tracing: records calls; None for no traces.
    """

    def __init__(self, service: Service, tracing: Tracing | None) -> None:
        self.addresses: Sequence[str] = ()
        self._settings = service.settings
        runner = CallRunner(service, tracing)
        self._idle = runner.idle
        methods = InferenceMethods(service)
        self._streams = InferenceStreams(methods, runner)
        self._handlers = _handlers(service, runner, methods, self._streams)
        self._accepting = False
        self._server: Any = None
        self._changing: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    def accept(self, accepting: bool) -> None:
        """Accept connections, or none any more: those that there are end when their calls have been answered."""
        self._accepting = accepting
        if self._changing is None or self._changing.done():
            self._changing = asyncio.get_running_loop().create_task(self._change())

    async def close(self) -> None:
        """Accept no more, and return when all calls are answered, or `drain_seconds` have passed."""
        self.accept(False)
        assert self._changing is not None
        await self._changing
        await asyncio.gather(*self._stopping)

    async def _change(self) -> None:
        while self._accepting != (self._server is not None):
            if self._accepting:
                try:
                    await self._open()
                except RuntimeError as err:  # grpc's core says no more
                    log.error("cannot listen for gRPC on %s: %s", ", ".join(self.addresses), err)
                    await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._begin_to_stop()

    async def _open(self) -> None:
        server = grpc.aio.server(options=list(_options(self._settings).items()))
        server.add_generic_rpc_handlers(self._handlers)
        for address in self.addresses:
            server.add_insecure_port(address)
        await server.start()
        self._server = server

    def _begin_to_stop(self) -> None:
        server, self._server = self._server, None
        self._streams.end_all()
        self._idle.end_all()
        task = asyncio.create_task(server.stop(self._settings.drain_seconds))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


def _handlers(
    service: Service, runner: CallRunner, methods: InferenceMethods, streams: InferenceStreams
) -> tuple[Any, ...]:
    """grpc's handlers of all methods."""
    infer = RpcMethod(INFERENCE_SERVICE, "ModelInfer")
    health = HealthService(service)
    served = {
        RpcMethod(INFERENCE_SERVICE, name, method.probe): methods.serving(name)
        for name, method in methods.unary.items()
    }
    served |= {infer: methods.model_infer, STREAM_METHOD: streams.serve}
    served[RpcMethod(HEALTH_SERVICE, "Check", probe=True)] = health.check
    served[RpcMethod(HEALTH_SERVICE, "Watch", probe=True, streams=True)] = health.watch
    if service.settings.docs:
        served[RpcMethod(REFLECTION_SERVICE, "ServerReflectionInfo", streams=True, keyless=True)] = (
            ReflectionService().serve
        )
    by_service: dict[str, dict[str, Any]] = {}
    for method, serve in served.items():
        by_service.setdefault(method.service, {})[method.name] = runner.handler(method, serve)
    return tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in by_service.items())


def _options(settings: Settings) -> dict[str, int]:
    """The options of grpc's core for a server with these settings."""

    def milliseconds(seconds: float) -> int:
        return max(1, round(1000 * seconds))

    return {
        "grpc.so_reuseport": 1,
        "grpc.max_receive_message_length": settings.max_body_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.max_concurrent_streams": _MAX_CONCURRENT_STREAMS,
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        "grpc.server_handshake_timeout_ms": milliseconds(settings.header_seconds),
        "grpc.max_connection_idle_ms": milliseconds(settings.keep_alive_seconds),
        "grpc.max_connection_age_ms": milliseconds(settings.grpc_connection_seconds),
        "grpc.keepalive_time_ms": milliseconds(_PING_SECONDS),
        "grpc.keepalive_timeout_ms": milliseconds(_PING_TIMEOUT_SECONDS),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": milliseconds(_LEAST_CLIENT_PING_SECONDS),
        "grpc.compression_enabled_algorithms_bitset": _ONLY_IDENTITY,
    }
