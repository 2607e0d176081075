"""The standard health service (grpc.health.v1): the service as a whole, GRPCInferenceService, and each model."""

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

from app.api.auth import AccessLevel
from app.api.dependencies import Service
from app.errors import NotReady, Overloaded, UnknownModel
from app.grpc_api.inference_messages import INFERENCE_SERVICE
from app.grpc_api.rpc_calls import RpcCall
from bundle.bundle_errors import ExplainedError

HEALTH_SERVICE: str = health.SERVICE_NAME
_MAX_WATCHERS = 100
_POLL_SECONDS = 0.5
_Response = health_pb2.HealthCheckResponse


class HealthService:
    """Answers Check and Watch with the readiness that /readyz and /v2/models/{name}/ready have.

    "" and GRPCInferenceService are the default model; the name of a model is that model. From SIGTERM on nothing is
    serving.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._required = AccessLevel[service.settings.health_access.upper()]
        self._watchers = 0

    async def check(self, call: RpcCall) -> None:
        """Answer with the status of now. Raises UnknownModel."""
        await call.authorize(self._required)
        request = await call.only_message(health_pb2.HealthCheckRequest)
        status = await self._status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise UnknownModel(f"there is no service and no model {request.service[:60]!r}")
        await call.send(_Response(status=status))

    async def watch(self, call: RpcCall) -> None:
        """Send the status of now, and each other one that follows.

        Raises Overloaded for too many watchers, and NotReady, after NOT_SERVING, when the port stops.
        """
        await call.authorize(self._required)
        request = await call.only_message(health_pb2.HealthCheckRequest)
        if self._watchers >= _MAX_WATCHERS:
            raise Overloaded(f"{self._watchers} clients watch, and no more may", retry_after=1)
        self._watchers += 1
        try:
            await call.idle.wait(self._send_changes(request.service, call))
        except NotReady:
            await call.send(_Response(status=_Response.NOT_SERVING))
            raise
        finally:
            self._watchers -= 1

    async def _send_changes(self, name: str, call: RpcCall) -> None:
        last = None
        while True:
            status = await self._status(name)
            if status != last:
                await call.send(_Response(status=status))
            last = status
            await asyncio.sleep(_POLL_SECONDS)

    async def _status(self, name: str) -> Any:
        """The ServingStatus of a name."""
        if self._service.stopping:
            return _Response.NOT_SERVING
        model = None if name in ("", INFERENCE_SERVICE) else name
        try:
            await self._service.group.check_ready(model)
        except UnknownModel:
            return _Response.SERVICE_UNKNOWN
        except ExplainedError:
            return _Response.NOT_SERVING
        return _Response.SERVING
