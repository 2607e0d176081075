"""What is around every request, at a real server: headers, log lines, and what never gets into the log."""

import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from app.configuration.settings import Settings
from app.main import create_app
from tests.support.pictures import encoded, scene
from tests.support.processes import workers
from tests.support.servers import Server, crossvit_serve
from tests.support.waiting import wait_until

KEY, ADMIN = "kei-0123456789-abcdef", "admin-0123456789-abcdef"
MARK = "the-marked-bytes-of-an-image"
PAGE = "https://page.example"
JPEG = encoded(scene(300, 300), "JPEG")
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Cache-Control": "no-store",
}


@pytest.fixture(scope="module")
def watched(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys that takes calls from one page, and logs all that it can."""
    log = tmp_path_factory.mktemp("watched") / "log"
    options = ["--engine", "onnxruntime", "--precision", "f32", "--log-format", "json", "--log-level", "debug"]
    keys = ["--api-keys", f"ann:{KEY}", "--admin-keys", f"root:{ADMIN}"]
    with crossvit_serve(log, "--bundle", str(bundle), *options, *keys, "--cors-origins", PAGE) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture
def caller(watched: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=watched.url, timeout=60, headers={"X-API-Key": KEY}) as client:
        yield client


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log_lines()]


def line_of(server: Server, response: httpx.Response) -> dict[str, Any]:
    """The one line of the request that has this response."""
    return line_with_id(server, response.headers["X-Request-ID"])


def line_with_id(server: Server, request_id: str) -> dict[str, Any]:
    """The one line of the request with this id, which is written after the answer."""
    (line,) = wait_until(lambda: [line for line in lines(server) if line.get("request_id") == request_id])
    return line


def marked_png() -> bytes:
    buffer = BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", MARK)
    scene(300, 300).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def answers(client: httpx.Client) -> list[tuple[int, httpx.Response]]:
    """One response for each way in which a request can end."""
    form = {"file": JPEG}
    return [
        (200, client.get("/livez")),
        (200, client.get("/metrics")),
        (200, client.get("/openapi.json")),
        (200, client.post("/classify", files=form)),
        (400, client.post("/classify", content=b"")),
        (401, client.get("/models", headers={"X-API-Key": "wrong"})),
        (403, client.post("/admin/reload")),
        (404, client.get("/no/such/path")),
        (404, client.get("/v2/models/no-such-model")),
        (405, client.put("/classify")),
        (405, client.request("PROPFIND", "/classify")),
        (413, client.post("/classify", content=bytes(11_000_000))),
        (415, client.post("/classify", content=b"nothing")),
        (422, client.post("/classify?top_k=0", files=form)),
    ]


def test_every_response_has_a_request_id_and_the_security_headers(caller: httpx.Client) -> None:
    responses = answers(caller)
    assert [response.status_code for _, response in responses] == [status for status, _ in responses]
    for _, response in responses:
        assert (
            response.headers.items() >= SECURITY.items()
            or {name: response.headers.get(name) for name in SECURITY} == SECURITY
        )
        assert "Server" not in response.headers
    ids = [response.headers["X-Request-ID"] for _, response in responses]
    assert len({*ids}) == len(ids)


def test_the_answer_of_a_failed_engine_has_the_security_headers(watched: Server, caller: httpx.Client) -> None:
    (engine,) = workers(watched.process.pid, "engine")
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: caller.get("/readyz").status_code != 200)
    response = caller.post("/classify", files={"file": JPEG})
    assert response.status_code == 503
    assert {name: response.headers.get(name) for name in SECURITY} == SECURITY
    wait_until(lambda: "requests were refused in 5 s: NotReady" in watched.log_text())  # by its head
    watched.wait_until_ready()


def test_a_defect_is_answered_and_logged_under_the_requests_id(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(bundle=bundle))

    @app.get("/boom")
    async def boom() -> None:
        raise ZeroDivisionError("boom")

    response = TestClient(app).get("/boom", headers={"X-Request-ID": "the-one"})
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "the-one"
    assert {name: response.headers.get(name) for name in SECURITY} == SECURITY
    assert "boom" not in response.text
    (record,) = (record for record in caplog.records if record.name == "app.api.problems")
    assert record.levelno == logging.ERROR
    assert "the-one" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("given", ["a b", "a\tb", "é", '{"a":1}', "x" * 129, ""])
def test_an_invalid_request_id_is_replaced(caller: httpx.Client, given: str) -> None:
    response = caller.get("/livez", headers=[(b"X-Request-ID", given.encode())])
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_the_docs_page_may_load_what_it_needs_from_here_and_nothing_else(caller: httpx.Client) -> None:
    page = caller.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert {source for sources in policy.values() for source in sources.split()} == {
        "'self'", "'unsafe-inline'", "'none'", "data:",
    }  # fmt: skip
    assert "'self'" in policy["script-src"]
    assert policy["frame-ancestors"] == "'none'"
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(needed) >= 3
    for address in needed:
        assert not re.match("[a-z]+:|/", address)  # beside the page, wherever a proxy has it
        assert caller.get(f"/{address}").status_code == 200
    kinds = {caller.get(f"/{address}").headers["Content-Type"].partition(";")[0] for address in needed}
    assert {"text/css"} < kinds  # nosniff: a script or style of a wrong type would not run
    assert any("javascript" in kind for kind in kinds)


@pytest.mark.parametrize("path", ["/docs/x", "/docsearch", "/models"])
def test_what_is_not_the_docs_page_may_load_nothing(caller: httpx.Client, path: str) -> None:
    assert caller.get(path).headers["Content-Security-Policy"] == SECURITY["Content-Security-Policy"]


# Other sites' pages

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-api-key, x-request-id, x-request-timeout-ms",
}


def test_no_page_of_another_site_may_call_by_default(client: httpx.Client) -> None:
    for response in (
        client.get("/models", headers={"Origin": PAGE}),
        client.options("/classify", headers={"Origin": PAGE} | PREFLIGHT),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.status_code == 204


def test_the_page_that_is_set_may_call(caller: httpx.Client) -> None:
    preflight = caller.options("/classify", headers={"Origin": PAGE, "X-API-Key": ""} | PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in PREFLIGHT["Access-Control-Request-Headers"].split(", "))
    assert {name: preflight.headers.get(name) for name in SECURITY} == SECURITY
    for response in (caller.get("/models", headers={"Origin": PAGE}), caller.get("/nowhere", headers={"Origin": PAGE})):
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]
        assert "Origin" in response.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in response.headers


def test_a_page_that_is_not_set_may_not_call(caller: httpx.Client) -> None:
    other = {"Origin": "https://page.example.evil"}
    preflight = caller.options("/classify", headers=other | PREFLIGHT)
    assert preflight.status_code == 400
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert "Access-Control-Allow-Origin" not in caller.get("/models", headers=other).headers


# The log


def test_a_request_is_one_line_with_its_fields(watched: Server, caller: httpx.Client) -> None:
    response = caller.post("/classify", files={"file": JPEG})
    line = line_of(watched, response)
    assert line.keys() == {
        "timestamp", "level", "logger", "event", "method", "route", "status", "ms", "request_id", "client", "caller",
        "decoder_wait", "decode", "queue", "inference",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert (line["level"], line["logger"], line["event"]) == ("info", "app.request", "request")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/classify", 200)
    assert (line["client"], line["caller"]) == ("127.0.0.1", "ann")
    timing = response.json()["timing_ms"]
    assert line["inference"] == pytest.approx(timing["inference"], abs=0.1)
    assert line["decode"] == pytest.approx(timing["decode"], abs=0.1)
    assert timing["total"] - 0.1 <= line["ms"] < timing["total"] + 1000


def test_every_way_to_end_is_one_line(watched: Server, caller: httpx.Client) -> None:
    for status, response in answers(caller):
        assert line_of(watched, response)["status"] == status


def test_a_client_that_leaves_is_logged(watched: Server, caller: httpx.Client) -> None:
    engines = workers(watched.process.pid, "engine")
    try:
        for engine in engines:
            os.kill(engine, signal.SIGSTOP)
        with pytest.raises(httpx.ReadTimeout):
            caller.post("/classify", files={"file": JPEG}, headers={"X-Request-ID": "left"}, timeout=0.5)
        assert line_with_id(watched, "left")["status"] == 499
    finally:
        for engine in engines:
            os.kill(engine, signal.SIGCONT)


@pytest.mark.parametrize(
    ("path", "level"),
    [("/livez", "debug"), ("/readyz", "debug"), ("/metrics", "debug"), ("/v2/health/ready", "debug"), ("/v2", "info")],
)
def test_probes_are_logged_at_debug_alone(watched: Server, caller: httpx.Client, path: str, level: str) -> None:
    line = line_of(watched, caller.get(path))
    assert (line["level"], line["route"]) == (level, path)


@pytest.mark.parametrize(
    ("path", "route", "model"),
    [
        ("/v2/models/crossvit_tiny/ready", "/v2/models/{name}/ready", "crossvit_tiny"),
        ("/v2/models/crossvit_tiny/versions/1", "/v2/models/{name}/versions/{version}", "crossvit_tiny"),
        # values that are the beginning of what is before them in the path
        ("/v2/models/m", "/v2/models/{name}", None),
        ("/v2/models/v2/ready", "/v2/models/{name}/ready", None),
        ("/v2/models/models/versions/m/ready", "/v2/models/{name}/versions/{version}/ready", None),
        ("/v2/models/%7Bversion%7D/versions/%7Bname%7D", "/v2/models/{name}/versions/{version}", None),
        ("/v2/models/a%0Ab/ready", "/v2/models/{name}/ready", None),
        ("/nowhere/%0A%7B%22level%22%3A%22error%22%7D", "other", None),
    ],
)
def test_a_line_names_the_route_and_not_what_the_client_made_up(
    watched: Server, caller: httpx.Client, path: str, route: str, model: str | None
) -> None:
    line = line_of(watched, caller.get(path))
    assert (line["route"], line.get("model")) == (route, model)


def test_neither_keys_nor_images_are_ever_logged(watched: Server, caller: httpx.Client) -> None:
    png = marked_png()
    assert MARK.encode() in png
    mark = MARK.encode()
    wrong = KEY + "-mistyped"
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES"}
    infer = "/v2/models/crossvit_tiny/infer"
    for key in (KEY, ADMIN, wrong):
        given = {"X-API-Key": key}
        caller.get("/models", headers=given)
        caller.get("/models", headers={"Authorization": f"Bearer {key}", "X-API-Key": ""})
        caller.get("/models", headers={"Authorization": key, "Cookie": key, "User-Agent": key, "Referer": key})
        caller.get(f"/models/{key}")
        caller.get(f"/{key}", headers=given)
        caller.get(f"/v2/models/{key}")
        caller.get(f"/v2/models/crossvit_tiny/versions/{key}")
        caller.options(f"/{key}", headers={"Origin": PAGE} | PREFLIGHT)
        caller.post(f"/v2/repository/models/{key}/load", headers={"X-API-Key": ADMIN})
        caller.post(f"/classify?api_key={key}", files={"file": png})
        caller.post(f"/classify?model={key}&top_k={key}", files={"file": png})
        caller.post("/classify", files={"file": (key, png, key)}, data={key: key})
        caller.post("/classify", content=png, headers={"Content-Type": key})
        caller.post("/classify", files={"file": png}, headers={"X-Request-Timeout-Ms": key})
        caller.post("/classify", content=png, headers={"traceparent": key})
    assert caller.post("/classify", files={"file": (MARK, png)}).status_code == 200
    caller.post("/classify", content=png[: len(png) // 2])
    caller.post("/classify", content=png.replace(b"IDAT", b"IDAT" + mark))
    caller.post("/classify", content=mark)
    caller.post(
        "/classify/batch", files=[("files", (MARK, png)), ("files", (MARK, mark)), ("files", (MARK, png[:900]))]
    )
    for body in (mark, b"--x\r\n" + mark, b"--x\r\n@" + mark + b": y\r\n\r\n", b"--x" + mark, b"--x--" + mark):
        caller.post("/classify", content=body, headers=multipart)
    encoded_png = base64.b64encode(png).decode()
    caller.post(infer, json={"inputs": [tensor | {"data": [encoded_png, MARK]}]})
    caller.post(infer, json={"inputs": [tensor | {"data": [MARK]}], MARK: MARK})
    caller.post(infer, content=mark, headers={"Inference-Header-Content-Length": "0"})
    caller.post(infer, content=b'{"inputs": ' + mark)
    caller.post(infer, content=png, headers={"Content-Encoding": "gzip"})
    assert caller.post(infer, json={"inputs": [tensor | {"data": [encoded_png]}]}).status_code == 200

    last = caller.get("/models")
    line_of(watched, last)
    log = watched.log_text()
    assert len(log.splitlines()) > 60
    for secret in (KEY, ADMIN, MARK, KEY[4:], ADMIN[6:], base64.b64encode(mark[:24]).decode(), mark.hex()):
        assert secret not in log
    assert encoded_png[:60] not in log
    assert "python_multipart" not in log


def test_a_malformed_key_ends_the_start_without_being_shown(bundle: Path) -> None:
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle), "--port", "0", "--log-level", "debug"]
    environment = os.environ | {"CROSSVIT_API_KEYS": f"ann:{KEY},bob:é{KEY}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "key 2 of the setting is not NAME:KEY or KEY" in done.stderr
    assert KEY not in done.stderr + done.stdout


def test_the_marked_image_is_an_image_with_the_mark_in_its_text() -> None:
    """The marked image is one, so that what is logged of it would be of an image."""
    with Image.open(BytesIO(marked_png())) as image:
        assert image.text["Comment"] == MARK  # type: ignore[attr-defined]
