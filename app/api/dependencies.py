"""What the routes work with, made once by `app.main` and handed to each request."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import ClientDisconnect

from app.api.auth import AccessControl, Level
from app.api.body import Bodies
from app.api.origin import Origins
from app.configuration.settings import Settings
from app.decoding.pool import DecoderPool
from app.errors import BadParameter
from app.serving.repository import Repository
from app.telemetry.metrics import Metrics

T = TypeVar("T")


@dataclass
class Service:
    """`stopping` turns true at SIGTERM: readiness ends, everything else goes on until the port closes."""

    settings: Settings
    repository: Repository
    decoders: DecoderPool
    metrics: Metrics
    access: AccessControl
    origins: Origins
    bodies: Bodies
    stopping: bool = False

    def deadline(self, request: Request) -> float:
        """When the request's answer must be there, on the clock of time.perf_counter.

        As X-Request-Timeout-Ms says, but the server's own longest time at most. BadParameter if it is no such number.
        """
        asked = request.headers.get("X-Request-Timeout-Ms")
        seconds = self.settings.request_seconds
        if asked is not None:
            digits = asked.strip().lstrip("0")
            if not (digits.isascii() and digits.isdecimal()):
                raise BadParameter("X-Request-Timeout-Ms is a whole number of milliseconds, 1 or more")
            seconds = min(seconds, int(digits[:10]) / 1000)
        return float(request.state.started) + seconds

    async def admit(self, request: Request, needed: Level, *, limited: bool = False) -> None:
        """Let the request pass if its key, port and page allow what is `needed`; raises as Access.check does."""
        server = request.scope.get("server") or ("", None)
        if needed == Level.ADMIN:
            self.origins.check_admin(request.headers, by_port=self.access.makes_admins(server[1]))
        request.state.caller = await self.access.check(request.headers, server[1], needed, limited=limited)

    def charge(self, request: Request, images: int) -> None:
        """Count the images of a request that was admitted as a limited one; raises as Access.charge does."""
        server = request.scope.get("server") or ("", None)
        self.access.charge(request.headers, server[1], images)


def sharer(request: Request) -> str:
    """Whose share of the queue and of the decoders' time a request takes: its key's name, or else its address.

    The addresses that one IPv6 customer has, of which there are 2 ** 64 at least, count as one.
    """
    if request.state.caller:
        return f"key {request.state.caller}"
    address = request.client.host if request.client else ""
    with suppress(ValueError):
        return str(ip_network((address, 64), strict=False)) if ":" in address else address
    return address


async def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


ServiceDep = Annotated[Service, Depends(_service)]
# For /docs and clients that are made from the OpenAPI document; app.api.auth reads the headers.
_Bearer = Annotated[object, Security(HTTPBearer(auto_error=False))]
_Header = Annotated[object, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes: nobody is left to read it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes next is the disconnect
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def caller(needed: Level, *, limited: bool = False) -> Any:
    """A dependency: the request's caller may do what `needed` says; with `limited` it counts towards the key's rate."""

    async def check(request: Request, here: ServiceDep, _bearer: _Bearer, _key: _Header) -> None:
        await here.admit(request, needed, limited=limited)

    return Depends(check)


def elapsed(request: Request) -> float:
    """Seconds since the request's headers were there."""
    return time.perf_counter() - float(request.state.started)
