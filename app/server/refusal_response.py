"""The connection's own answer to a request that it refuses, in the format of app.api.problems."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from app.api.error_formats import PROBLEM_MEDIA_TYPE, OipError
from app.api.schemas import Problem
from app.server.request_head import RequestRefused


def refusal_app(refused: RequestRefused, *, inference: bool) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An ASGI application that answers with the refusal; `inference` is for paths of the Open Inference Protocol."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        status = refused.status
        problem = Problem(title=status.phrase, status=status, detail=refused.detail, request_id=uuid.uuid4().hex)
        body = (OipError.of(problem) if inference else problem).model_dump_json().encode()
        kind = b"application/json" if inference else PROBLEM_MEDIA_TYPE.encode()
        headers = {
            b"content-type": kind,
            b"x-request-id": problem.request_id.encode(),
            b"content-length": b"%d" % len(body),
            b"x-content-type-options": b"nosniff",
        }
        await send({"type": "http.response.start", "status": int(status), "headers": list(headers.items())})
        await send({"type": "http.response.body", "body": body})

    return app
