"""What is before every route: in process, and without a model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from app.api.problems import problem_of
from app.configuration.settings import Settings
from app.errors import QueueFull, RateLimited
from app.main import create_app

PAGE = "https://page.example"
EVIL = "https://evil.example"
ADMIN = ("/admin/reload", "/v2/repository/models/x/load", "/v2/repository/models/x/unload")
POSTS = ("/classify", "/classify/batch", "/v2/models/x/infer", "/v2/repository/index", "/nowhere", *ADMIN)


@pytest.fixture(scope="module")
def app(bundle: Path) -> FastAPI:
    return create_app(Settings(bundle=bundle, admin_port=9000, root_path="/crossvit"))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


@pytest.fixture(scope="module")
def admin(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:9000")


def routes(app: FastAPI, method: str) -> Iterator[str]:
    paths: dict[str, Any] = app.openapi()["paths"]
    yield from (path.format(name="crossvit_tiny", version="1") for path, each in paths.items() if method in each)


# Methods


def test_head_is_get_without_its_content_on_every_path(app: FastAPI, client: TestClient) -> None:
    paths = [*routes(app, "get"), "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/nowhere"]
    assert len(paths) > 15
    for path in paths:
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code
        assert head.content == b""
        if path != "/metrics":  # which has grown
            assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.content))
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_options_and_405_say_all_that_is_allowed_on_every_path(app: FastAPI, client: TestClient) -> None:
    for path in {path for method in ("get", "post", "put") for path in routes(app, method)}:
        methods = {method.upper() for method in ("get", "post", "put") if path in routes(app, method)}
        allow = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        options = client.options(path)
        assert (options.status_code, options.headers["Allow"], options.content) == (204, allow, b"")
        for other in {"PUT", "DELETE", "PATCH", "PROPFIND"} - methods:
            refused = client.request(other, path)
            assert (refused.status_code, refused.headers["Allow"]) == (405, allow)
    assert client.options("/docs").headers["Allow"] == "GET, HEAD, OPTIONS"
    assert client.options("/static-offline-docs/swagger-ui.css").headers["Allow"] == "GET, HEAD, OPTIONS"
    assert client.options("/nowhere").status_code == 404


def test_methods_do_not_make_metrics_without_end(client: TestClient) -> None:
    for method in ("HEAD", "OPTIONS", "PROPFIND", "BREW", "X" * 50):
        client.request(method, "/models")
    found = set(re.findall(r'crossvit_requests_total{method="([^"]+)",route="/models"', client.get("/metrics").text))
    assert found >= {"HEAD", "OPTIONS", "other"}
    assert found <= {"HEAD", "OPTIONS", "other", "GET"}


@pytest.mark.parametrize("path", ["/classify/", "//classify", "/Classify", "/v2/models/m/infer/"])
def test_a_path_that_is_written_otherwise_is_named_and_not_served(client: TestClient, path: str) -> None:
    """nginx's `location = /metrics` closes /metrics alone."""
    similar = re.sub("/+", "/", path).rstrip("/").lower()
    response = client.request("POST", f"http://testserver{path}")
    assert response.status_code == 404
    problem = response.json()
    assert f"did you mean {similar}?" in problem.get("detail", problem.get("error"))
    assert "did you mean" not in client.get("/no/such/path/").text


# Web pages


@pytest.mark.parametrize(
    "headers", [{"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_a_page_of_another_origin_can_post_nothing(
    client: TestClient, admin: TestClient, headers: dict[str, str]
) -> None:
    for path in POSTS:
        for asking in (client, admin):
            refused = asking.post(path, headers=headers)
            assert refused.status_code == 403
            assert "a web page of another origin may not call" in refused.text
            assert "Access-Control-Allow-Origin" not in refused.headers
    assert client.get("/models", headers=headers).status_code == 200  # and the page cannot read it


def test_the_services_own_page_may_call(admin: TestClient) -> None:
    for headers in ({"Origin": "http://127.0.0.1:9000"}, {"Sec-Fetch-Site": "same-origin", "Origin": EVIL}, {}):
        for path in ADMIN[1:]:
            assert "'x'" in admin.post(path, headers=headers).json()["error"]  # there is no such model


def test_a_name_that_is_pointed_at_the_admin_port_is_refused(admin: TestClient) -> None:
    for path in ADMIN:
        refused = admin.post(path, headers={"Host": "evil.example:9000", "Origin": "http://evil.example:9000"})
        assert refused.status_code == 403
        assert "--allowed-hosts" in refused.text
        assert admin.post(ADMIN[1], headers={"Host": "localhost:9000"}).status_code == 404


def test_pages_that_may_call_may_not_administer_and_can_read_each_refusal(bundle: Path) -> None:
    app = create_app(
        Settings(bundle=bundle, admin_port=9000, cors_origins=["*"], api_keys=[SecretStr("a-key-of-a-client")])
    )

    @app.get("/boom")
    async def boom() -> None:
        raise ZeroDivisionError

    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    key = {"X-API-Key": "a-key-of-a-client"}
    client = TestClient(app, headers=page)
    admin = TestClient(app, base_url="http://127.0.0.1:9000", headers=page)
    for response, status in [
        (client.post("/classify"), 401),
        (client.post("/classify", headers=key), 503),
        (client.post("/classify?top_k=0", headers=key), 422),
        (client.get("/boom"), 500),
        (client.put("/classify"), 405),
        (client.post("/admin/reload"), 403),
        (admin.post("/admin/reload"), 403),
    ]:
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers
    preflight = client.options("/classify", headers={"Access-Control-Request-Method": "POST"})
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_deep_readiness_is_refused_to_pages_of_other_sites(client: TestClient) -> None:
    assert client.get("/readyz?deep=1", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/readyz", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 503
    assert client.get("/readyz?deep=1").status_code == 503


def test_only_the_hosts_that_are_set_are_served_but_for_probes(bundle: Path) -> None:
    client = TestClient(create_app(Settings(bundle=bundle, allowed_hosts=["api.example.org"])))
    for path in ("/models", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/v2", "/nowhere"):
        refused = client.get(path, headers={"Host": "evil.example"})
        assert refused.status_code == 403
        assert "add it to --allowed-hosts" in refused.text
        assert client.get(path, headers={"Host": "api.example.org:8000"}).status_code in (200, 404)
    for probe in ("/livez", "/v2/health/live", "/metrics"):
        assert client.get(probe, headers={"Host": "10.0.0.7:8000"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://page.example/", "page.example", "https://page.example/app"])
def test_an_invalid_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=[origin])


# A prefix


def test_every_path_is_below_the_prefix_and_without_it(app: FastAPI, client: TestClient) -> None:
    for path in [*routes(app, "get"), "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"]:
        plain, below = client.get(path), client.get(f"/crossvit{path}")
        assert below.status_code == plain.status_code
        assert below.headers["Content-Security-Policy"] == plain.headers["Content-Security-Policy"]
    assert client.post("/crossvit/classify").json()["reason"] == "NotReady"
    assert client.post("/crossvit/v2/models/x/infer").json().keys() == {"error"}
    assert client.get("/crossvitmodels").status_code == client.get("/other/models").status_code == 404


@pytest.mark.parametrize("prefix", ["crossvit", "/crossvit/", "/", "//x", "/a b", "https://x/y"])
def test_an_invalid_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=prefix)


@pytest.mark.parametrize("below", ["/docs", "/crossvit/docs"])
def test_the_docs_page_loads_what_it_needs_from_beside_it(client: TestClient, below: str) -> None:
    page = client.get(below).text
    links = [*re.findall(r'(?:src|href)="([^"]+)"', page), *re.findall(r"url: '([^']+)'", page)]
    assert len(links) == 4
    for link in links:
        assert client.get(str(httpx.URL(f"http://testserver{below}").join(link))).status_code == 200
    assert client.get("/openapi.json").json()["servers"] == [{"url": "."}]


def test_without_the_docs_setting_every_path_of_the_docs_is_404(bundle: Path) -> None:
    client = TestClient(create_app(Settings(bundle=bundle, docs=False)))
    for path in ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
        assert client.get(path).status_code == 404


# Parameters


@pytest.mark.parametrize("path", ["/classify", "/classify/batch", "/readyz"])
def test_too_many_parameters_are_refused_unparsed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    parsed: list[str] = []

    def parse(query: str, *given: Any, **named: Any) -> list[tuple[str, str]]:
        parsed.append(query)
        return parse_qsl(query, *given, **named)

    monkeypatch.setattr("starlette.datastructures.parse_qsl", parse)
    method = "GET" if path == "/readyz" else "POST"
    client.request(method, f"{path}?a=b")
    assert parsed  # as what is not refused is
    parsed.clear()
    response = client.request(method, f"{path}?{'&'.join(f'{number:x}' for number in range(12_000))}")
    assert response.status_code == 422
    assert "the query has more than 32 parameters" in response.text
    assert not parsed


@pytest.mark.parametrize("query", ["top_k=1&top_k=2", "top_k=1&model=a&top_k=1", "top_k=1&top%5Fk=2", "x=1&x=2"])
def test_a_parameter_that_is_given_twice_is_refused(client: TestClient, query: str) -> None:
    for path in ("/classify", "/classify/batch"):
        response = client.post(f"{path}?{query}")
        assert response.status_code == 422
        assert "2 times: send it once" in response.json()["detail"]


@pytest.mark.parametrize("value", ["", "0", "000", "-5", "1.5", "1e3", "+5", "5 s", "\u0663", "inf", "0x10"])
def test_an_invalid_timeout_is_refused(client: TestClient, value: str) -> None:
    response = client.post("/classify", headers=[(b"X-Request-Timeout-Ms", value.encode())])
    assert response.status_code == 422
    assert "X-Request-Timeout-Ms must be a whole number of milliseconds" in response.text


@pytest.mark.parametrize("value", ["1", "00000000000007", " 500 ", "9" * 50])
def test_a_timeout_may_be_any_whole_number(client: TestClient, value: str) -> None:
    assert client.post("/classify", headers={"X-Request-Timeout-Ms": value}).status_code == 503  # it is loading


# Errors


def test_a_problem_says_which_error_it_is(client: TestClient) -> None:
    found = [problem_of(error("x"), "id") for error in (QueueFull, RateLimited)]
    assert [(problem.status, problem.reason) for problem in found] == [(429, "QueueFull"), (429, "RateLimited")]
    assert client.get("/nowhere").json()["reason"] == "NotFound"
    assert client.put("/models").json()["reason"] == "MethodNotAllowed"
    assert client.post("/classify?top_k=0").json()["reason"] == "BadParameter"


def test_the_log_has_a_status_as_a_number(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Mock()
    monkeypatch.setattr("app.api.observability_middleware.log", log)
    client.get("/nowhere")
    assert [repr(call.kwargs["status"]) for call in log.log.call_args_list] == ["404"]
