"""The OpenAPI document, where it has to say more or less than FastAPI finds by itself, and its page."""

from functools import cache
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.schemas import OipError, Problem

_ADMIN = ("/admin/", "/v2/repository/models/")
_STATIC = "static-offline-docs"


def describe(app: FastAPI, *, keys: bool) -> None:
    """Have the document of `app` describe errors as they are here, and keys only where one is needed.

    `keys` says whether API keys are asked for; admin routes always need one.
    """

    def openapi() -> dict[str, Any]:
        document = FastAPI.openapi(app)  # made once, then the same one
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas |= {kind.__name__: kind.model_json_schema() for kind in (OipError, Problem)}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]  # FastAPI's, of routes whose parameters are any text
                if not (keys or path.startswith(_ADMIN)):
                    operation.pop("security", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def serve_docs(app: FastAPI) -> None:
    """Serve the document of `app` at /openapi.json, and as a page at /docs, without a CDN.

    The document is written once, which takes milliseconds. All links of the page are relative, so that it works below
    whatever path a proxy has it.
    """
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{_STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{_STATIC}/favicon.png",
    )

    @cache
    def document() -> bytes:
        return bytes(JSONResponse(app.openapi()).body)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    @app.get("/docs/oauth2-redirect", include_in_schema=False)
    async def redirected() -> HTMLResponse:
        return get_swagger_ui_oauth2_redirect_html()

    app.mount(f"/{_STATIC}", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name=_STATIC)
