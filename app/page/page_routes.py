"""GET / for browsers, and the files of the page below /page."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.accept_header import accepted_types

_FOLDER = Path(__file__).parent

# No script or style but those of the files, nobody else's address, and no text that becomes HTML.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "Vary": "Accept",
}


def serve_page(app: FastAPI) -> None:
    """Serve the page at / to clients that ask for HTML, and its files; `app` answers the others of / as before.

    All addresses in the page are relative, so that it works below any path of a proxy.
    """
    document = _PageFiles(directory=_FOLDER)

    async def page(request: Request) -> Response:
        if not request.scope.get("raw_path", b"/").endswith(b"/"):  # else the addresses would miss the prefix
            return RedirectResponse(f"{request.scope['raw_path'].rpartition(b'/')[2].decode()}/")
        response = await document.get_response("index.html", request.scope)
        response.headers.update(_PAGE_HEADERS)
        return response

    app.router.routes.append(_HtmlRoute("/", page, methods=["GET"], include_in_schema=False))
    app.mount("/page", _PageFiles(directory=_FOLDER / "static"), name="page")


def prefers_html(accept: str) -> bool:
    """Whether the header `accept` (RFC 9110, 12.5.1) names HTML, and JSON no more: browsers' do, programs' do not."""
    weights = accepted_types(accept)
    html = weights.get("text/html", 0)
    return html > 0 and html >= weights.get("application/json", 0)


class _HtmlRoute(Route):
    """A route for requests that prefer HTML; a later route of the path answers the others."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match != Match.NONE and not prefers_html(Headers(scope=scope).get("accept", "")):
            return Match.NONE, {}
        return match, {**child, "route": self}  # as FastAPI's routes do, for the log and the metrics


class _PageFiles(StaticFiles):
    """Files with an ETag that browsers keep, and ask for again: after an upgrade none is of another version."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response
