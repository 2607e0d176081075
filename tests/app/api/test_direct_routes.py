"""POST /classify without the framework in between, beside the framework's own answers: one service, both ways in."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from app.api.direct_routes import DirectRoutes
from app.configuration.settings import Settings
from app.main import create_app
from tests.support.pictures import JPEG
from tests.support.waiting import until

ADMIN = {"Authorization": "Bearer admin-of-the-test"}  # admin keys have no rate limit
LIMITED = {"Authorization": "Bearer limited-of-the-test"}
FORM = {"file": ("photo.jpg", JPEG)}

REQUESTS: dict[str, dict[str, Any]] = {
    "raw": {"content": JPEG},
    "raw with its type": {"content": JPEG, "headers": {"Content-Type": "image/jpeg"}},
    "form": {"files": FORM},
    "options in the query": {"content": JPEG, "params": {"top_k": 3, "resolution": 224, "model": "crossvit_tiny"}},
    "options in the form": {"files": FORM, "data": {"top_k": "2"}},
    "options in both, alike": {"files": FORM, "data": {"top_k": "2"}, "params": {"top_k": 2}},
    "options in both, different": {"files": FORM, "data": {"top_k": "2"}, "params": {"top_k": 3}},
    "below the prefix": {"url": "/below/classify", "content": JPEG},
    "a parameter twice": {"content": JPEG, "params": [("top_k", 2), ("top_k", 2)]},
    "an unknown parameter": {"content": JPEG, "params": {"topk": 2}},
    "an unknown parameter twice": {"content": JPEG, "params": [("x", 2), ("x", 3)]},
    "an empty parameter": {"content": JPEG, "params": {"top_k": ""}},
    "no number": {"content": JPEG, "params": {"top_k": "many"}},
    "too many classes": {"content": JPEG, "params": {"top_k": 0}},
    "several wrong": {"content": JPEG, "params": {"top_k": "x", "resolution": "y", "z": "1", "model": ""}},
    "a fraction": {"content": JPEG, "params": {"top_k": "2.0"}},
    "a number in other writing": {"content": JPEG, "params": {"top_k": " +2 "}},
    "an unknown model": {"content": JPEG, "params": {"model": "other"}},
    "an unknown resolution": {"content": JPEG, "params": {"resolution": 225}},
    "no image": {"content": b"no image"},
    "nothing": {},
    "a damaged image": {"content": JPEG[:3000]},
    "too large": {"content": JPEG + bytes(300_000)},
    "an unknown coding": {"content": JPEG, "headers": {"Content-Encoding": "zstd-2"}},
    "no time": {"content": JPEG, "headers": {"X-Request-Timeout-Ms": "1"}},
    "no number of milliseconds": {"content": JPEG, "headers": {"X-Request-Timeout-Ms": "soon"}},
    "no key": {"content": JPEG, "headers": {"Authorization": ""}},
    "a wrong key": {"content": JPEG, "headers": {"Authorization": "Bearer wrong"}},
    "a wrong key and a wrong parameter": {"params": {"x": 1}, "headers": {"Authorization": "Bearer wrong"}},
    "over its rate": {"content": JPEG, "headers": LIMITED},
    "another page": {"content": JPEG, "headers": {"Sec-Fetch-Site": "cross-site"}},
    "HEAD": {"method": "HEAD"},
    "GET": {"method": "GET"},
    "OPTIONS": {"method": "OPTIONS"},
    "PUT": {"method": "PUT", "content": JPEG},
    "a slash more": {"url": "/classify/", "content": JPEG},
    "capitals": {"url": "/Classify", "content": JPEG},
}

NOT_ROUTED = ("another page", "a slash more", "capitals")


class Ways:
    """One service, reached with direct routes and without."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._direct = app.build_middleware_stack()
        names = [getattr(layer.cls, "__name__", "") for layer in app.user_middleware]
        del app.user_middleware[names.index(DirectRoutes.__name__)]
        self._framework = app.build_middleware_stack()

    async def answer(self, name: str, *, direct: bool) -> tuple[httpx.Response, Mapping[str, Any]]:
        """The answer and its request's line in the log."""
        request = {"method": "POST", "url": "/classify"} | REQUESTS[name]
        request["headers"] = ADMIN | request.get("headers", {})
        stack = self._direct if direct else self._framework

        async def entry(scope: Scope, receive: Receive, send: Send) -> None:
            scope["app"] = self.app
            await stack(scope, receive, send)

        with capture_logs() as lines:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(entry), base_url="http://127.0.0.1") as client:
                answer = await client.request(**request)
        (line,) = [line for line in lines if line["event"] == "request"]
        return answer, line

    def counted(self) -> dict[tuple[str, ...], float]:
        """Requests by their route, method and status."""
        (family,) = self.app.state.service.metrics.requests.collect()
        return {tuple(sample.labels.values()): sample.value for sample in family.samples if "_total" in sample.name}


@asynccontextmanager
async def service(bundle: Path) -> AsyncIterator[Ways]:
    settings = Settings(
        bundle=bundle,
        engine="onnxruntime",
        precision="f32",
        decoders=1,
        api_keys=["limited:limited-of-the-test"],  # type: ignore[list-item]
        admin_keys=["admin-of-the-test"],  # type: ignore[list-item]
        rate_limit="1/day",
        max_body_bytes=250_000,
        root_path="/below",
    )
    app = create_app(settings)
    lifespan = app.router.lifespan_context(app)
    await lifespan.__aenter__()
    try:
        await until(lambda: all(entry.state == "READY" for entry in app.state.service.repository.entries))
        yield Ways(app)
    finally:
        await lifespan.__aexit__(None, None, None)  # never with an error, as a server does


def form_of(value: Any) -> Any:
    """A JSON value without what differs between two requests: numbers, and the request's id."""
    if isinstance(value, dict):
        return {name: form_of(inner) for name, inner in value.items() if name != "request_id"}
    if isinstance(value, list):
        return [form_of(inner) for inner in value]
    return float if isinstance(value, float) else value


def compared(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], Any]:
    """What must be the same both ways."""
    headers = sorted(field for field in answer.headers.items() if field[0] not in ("x-request-id", "content-length"))
    return answer.status_code, headers, form_of(answer.json()) if answer.content else None


def test_direct_routes_answer_as_the_framework_does(bundle: Path) -> None:
    async def main() -> None:
        async with service(bundle) as ways:
            await ways.answer("over its rate", direct=False)  # which is one a day
            statuses = {}
            for name in REQUESTS:
                before = ways.counted()
                found, line = await ways.answer(name, direct=True)
                once = {key: count - before.get(key, 0) for key, count in ways.counted().items()}
                expected, expected_line = await ways.answer(name, direct=False)
                twice = {key: count - before.get(key, 0) for key, count in ways.counted().items()}
                assert compared(found) == compared(expected), name
                assert line.keys() == expected_line.keys(), name
                assert {key: line[key] for key in ("route", "method", "status")} == {
                    key: expected_line[key] for key in ("route", "method", "status")
                }, name
                assert {key: 2 * count for key, count in once.items()} == twice, name
                if name not in NOT_ROUTED:
                    assert line["route"] == "/classify", name
                statuses[name] = found.status_code
            assert {*statuses.values()} >= {200, 204, 401, 403, 404, 405, 413, 415, 422, 429, 504, 400}, statuses

    asyncio.run(main())
