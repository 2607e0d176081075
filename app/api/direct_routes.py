"""Routes that are called often, without the framework between them and the request.

FastAPI describes them in the OpenAPI document, and answers the other methods of their paths. Resolving the dependencies
of a request and validating its parameters and response take it half of the processor time of `POST /classify`
(docs/performance.md), and these routes do it themselves.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class DirectRoute:
    """A path without parameters, its methods, and what answers them."""

    path: str
    methods: frozenset[str]
    handler: Callable[[Request], Awaitable[Response]]


class DirectRoutes:
    """ASGI middleware, the innermost; `app` answers what none of `routes` does."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[DirectRoute]) -> None:
        self._app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.handler(Request(scope, receive))
        await response(scope, receive, send)
