"""The OpenAPI document, corrected where FastAPI's is wrong or incomplete, and its page at /docs."""

from functools import cache
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.error_formats import OipError, OpenAIError, OpenAIErrorDetail, TorchServeError
from app.api.schemas import Problem

TIMEOUT_PARAMETER = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "milliseconds within which the answer is needed; the service's own limit applies too",
    "schema": {"type": "integer", "minimum": 1},
}

_ADMIN_PATHS = ("/admin/", "/v2/repository/models/")
_STATIC_PATH = "static-offline-docs"


def correct_openapi(app: FastAPI, *, keys: bool) -> None:
    """Make the document of `app` describe its own errors, and keys only where a route needs one.

    `keys` says whether API keys are required; admin routes always require one.
    """

    def openapi() -> dict[str, Any]:
        document = FastAPI.openapi(app)  # made at the first call, then the same object
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for kind in (OipError, OpenAIErrorDetail, OpenAIError, TorchServeError, Problem):
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)  # each is there by itself
            schemas[kind.__name__] = schema
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]  # FastAPI adds it to routes whose parameters accept any text
                if not (keys or path.startswith(_ADMIN_PATHS)):
                    operation.pop("security", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def serve_docs(app: FastAPI) -> None:
    """Serve the document of `app` at /openapi.json, and as a page at /docs, without a CDN.

    The document is serialised once, which takes milliseconds. All links of the page are relative, so that it works
    below any path of a proxy.
    """
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{_STATIC_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{_STATIC_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{_STATIC_PATH}/favicon.png",
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

    app.mount(
        f"/{_STATIC_PATH}", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name=_STATIC_PATH
    )
