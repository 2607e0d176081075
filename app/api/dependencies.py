"""What the routes depend on: the Service, the caller's rights, and the fate of the connection."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import ClientDisconnect

from app.api.auth import AccessControl, AccessLevel
from app.api.instance_group import InstanceGroup
from app.api.origin_policy import OriginPolicy
from app.api.request_body import BodyLimits
from app.configuration.settings import Settings
from app.decoding.pool import DecoderPool
from app.errors import BadParameter
from app.pulling.background_quantization import BackgroundQuantization
from app.serving.brown_out import BrownOut
from app.serving.canary import CANARY, CANARY_HEADER, STABLE, Canary
from app.serving.repository import Repository
from app.serving.served_model import ServedModel
from app.telemetry.answer_log import AnswerLog
from app.telemetry.metrics import Metrics

T = TypeVar("T")

# An extension of the ASGI scope by app.server.connection: a function that is given what to call when the client of the
# request goes, at once if it has gone already, or None for nothing any more.
DISCONNECT_EXTENSION = "crossvit.disconnect"
WatchDisconnect = Callable[[Callable[[], None] | None], None]


@dataclass
class Service:
    """What all requests share; `app.main` makes one.

    Attributes:
        settings: of `crossvit serve`.
        repository: the served models.
        decoders: the processes that decode images and tensors.
        metrics: what /metrics shows.
        access: API keys, admin keys and rate limits.
        origin_policy: which web pages and host names may ask.
        body_limits: the limits of request bodies, and the memory that they hold.
        group: all instances of the service.
        canary: a second bundle of a model, None for none.
        answer_log: of a sample of the answers, None for none.
        brown_out: decides when answers come from cheaper steps; None with no --brown-out.
        quantization: makes the graphs in 8 bits that models lack, if this process does that.
        url: of the port, once it listens; empty if a server of another kind runs the application.
        loaded: is set once the models are loaded that are served from the start.
        stopping: true from SIGTERM on: readiness ends, everything else goes on until the port closes.
        away: true while other instances should serve: connections are not kept.
    """

    settings: Settings
    repository: Repository
    decoders: DecoderPool
    metrics: Metrics
    access: AccessControl
    origin_policy: OriginPolicy
    body_limits: BodyLimits
    group: InstanceGroup
    canary: Canary | None = None
    answer_log: AnswerLog | None = None
    brown_out: BrownOut | None = None
    quantization: BackgroundQuantization | None = None
    url: str = ""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    away: bool = False

    @property
    def leaving(self) -> bool:
        """Whether connections end with the answers to the requests that have arrived."""
        return self.stopping or self.away

    def model(self, request: Request, name: str | None = None) -> ServedModel:
        """The model called `name`, or the default one, or its canary if `request` goes to that.

        Raises as Repository.model does. A request goes to one of both, however often it is asked.
        """
        if self.canary is None:
            return self.repository.model(name)
        chosen = getattr(request.state, "revision", "")
        model, revision = self.revision(name, request.headers.get(CANARY_HEADER, ""), chosen)
        if revision:
            request.state.revision = revision
        return model

    def revision(self, name: str | None, canary_header: str, chosen: str = "") -> tuple[ServedModel, str]:
        """The model called `name`, or the default one, or its canary; and which of both, "" where there is no canary.

        Raises as Repository.model does.

        Args:
            name: of the model.
            canary_header: the request's CANARY_HEADER.
            chosen: the revision that was chosen for the request before.
        """
        model = self.repository.model(name)
        if self.canary is None or (name or self.repository.default) != self.canary.name:
            return model, ""
        revision = chosen or self.canary.revision(canary_header)
        if revision == CANARY and (canary := self.canary.model) is not None:
            return canary, CANARY
        return model, STABLE

    def deadline(self, request: Request) -> float:
        """When the request's answer must be there, on the clock of time.perf_counter.

        X-Request-Timeout-Ms sets it, up to the server's own limit. BadParameter if that is not a whole number.
        """
        header = request.headers.get("X-Request-Timeout-Ms")
        seconds = self.settings.request_seconds
        if header is not None:
            digits = header.strip().lstrip("0")
            if not (digits.isascii() and digits.isdecimal()):
                raise BadParameter("X-Request-Timeout-Ms must be a whole number of milliseconds, 1 or more")
            seconds = min(seconds, int(digits[:10]) / 1000)
        return float(request.state.started) + seconds

    async def authorize(self, request: Request, required: AccessLevel, *, rate_limited: bool = False) -> None:
        """Accept the request if its key, port and origin allow `required`, and count it if it is `rate_limited`.

        Raises as AccessControl.check and `charge` do.
        """
        server = request.scope.get("server") or ("", None)
        if required == AccessLevel.ADMIN:
            self.origin_policy.check_admin(request.headers, by_port=self.access.port_grants_admin(server[1]))
        request.state.caller = self.access.check(request.headers, server[1], required)
        if rate_limited:
            await self.access.charge(request.headers, server[1])

    async def charge(self, request: Request, images: int) -> None:
        """Count the images of a request that was counted as one already; raises as AccessControl.charge does."""
        server = request.scope.get("server") or ("", None)
        await self.access.charge(request.headers, server[1], images, paid=1)


def caller_id(request: Request) -> str:
    """Whose share of the queue and of the decoders' time a request takes: its key's name, or else its address.

    The addresses of one IPv6 customer, at least 2 ** 64, count as one.
    """
    return share_of(request.state.caller, request.client.host if request.client else "")


def share_of(key_name: str, address: str) -> str:
    """As `caller_id`, for a caller with the key of this name, or none, at this address."""
    if key_name:
        return f"key {key_name}"
    with suppress(ValueError):
        return str(ip_network((address, 64), strict=False)) if ":" in address else address
    return address


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
# They describe the keys in the OpenAPI document, for /docs and generated clients; app.api.auth reads the headers.
_Bearer = Annotated[object, Security(HTTPBearer(auto_error=False))]
_Header = Annotated[object, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]


def require_access(required: AccessLevel, *, rate_limited: bool = False) -> Any:
    """A dependency: the caller has `required` access; with `rate_limited` the request counts towards the key's rate."""

    async def check(request: Request, service: ServiceDep, _bearer: _Bearer, _key: _Header) -> None:
        await service.authorize(request, required, rate_limited=rate_limited)

    return Depends(check)


async def refuse_repeated_parameters(request: Request) -> None:
    """BadParameter for a query that has a parameter twice."""
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if count > 1:
            raise BadParameter(f"the query has the parameter {name[:40]!r} {count} times: send it once")


SINGLE_PARAMETERS = Depends(refuse_repeated_parameters)


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises ClientDisconnect when the client goes, since nobody would read it.

    Where the server has no DISCONNECT_EXTENSION, `work` goes on to its end. ASGI's own way, to await `receive` in a
    second task, makes and cancels a task for each request.
    """
    watch: WatchDisconnect = request.scope.get("extensions", {}).get(DISCONNECT_EXTENSION, _watch_nothing)
    connected = asyncio.timeout(None)
    try:
        async with connected:
            watch(lambda: connected.reschedule(0))
            try:
                return await work
            finally:
                watch(None)
    except TimeoutError as err:
        if not connected.expired():
            raise
        raise ClientDisconnect from err


def _watch_nothing(_: Callable[[], None] | None) -> None:
    pass


def seconds_since_start(request: Request) -> float:
    """Seconds since the request's headers arrived."""
    return time.perf_counter() - float(request.state.started)
