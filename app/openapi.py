"""The OpenAPI document, where it has to say more or less than FastAPI finds by itself."""

from typing import Any

from fastapi import FastAPI

from app.schemas import Failure, Problem

_ADMIN = ("/admin/", "/v2/repository/models/")


def describe(app: FastAPI, *, keys: bool) -> None:
    """Have the document of `app` describe errors as they are here, and keys only where one is needed.

    `keys` says whether API keys are asked for; admin routes always need one.
    """

    def openapi() -> dict[str, Any]:
        document = FastAPI.openapi(app)  # made once, then the same one
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas |= {kind.__name__: kind.model_json_schema() for kind in (Failure, Problem)}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if operation["responses"].get("422", {}).get("description") == "Validation Error":
                    del operation["responses"]["422"]  # FastAPI's, of routes whose parameters are any text
                if not (keys or path.startswith(_ADMIN)):
                    operation.pop("security", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
