"""Routes that classify, without the framework between them and the request.

FastAPI describes them in the OpenAPI document, and answers the other methods of their paths. Resolving the dependencies
of a request and validating its parameters and its response took FastAPI 40 % of the processor time that the HTTP
process spent on `POST /classify` (docs/performance.md), so these routes do it themselves.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class DirectRoute:
    """What answers POST requests to a path.

    Attributes:
        path: as FastAPI has it, with {names} of parameters.
        handler: finds the parameters in `request.path_params`; its errors are those of any route.
    """

    path: str
    handler: Callable[[Request], Awaitable[Response]]
    methods = frozenset({"POST"})

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path))


class DirectRoutes:
    """ASGI middleware, the innermost; `app` answers what none of `routes` does."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[DirectRoute]) -> None:
        self._app = app
        self._routes = list(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self._routes:
                if match := route.pattern.fullmatch(scope["path"]):
                    scope.update(route=route, path_params=match.groupdict())
                    response = await route.handler(Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
