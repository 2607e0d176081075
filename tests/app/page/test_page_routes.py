"""What browsers are served, and what they are not: the page's address, its files and their headers."""

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.configuration.settings import Settings
from app.main import create_app
from app.page.page_routes import prefers_html
from tests.support.raw_http import connect
from tests.support.servers import Server
from tests.support.waiting import wait_until

FOLDER = Path(__file__).parents[3] / "app" / "page"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
HTML = {"Accept": BROWSER}


@pytest.fixture(name="app", scope="module")
def app_without_engines(bundle: Path) -> FastAPI:
    return create_app(Settings(bundle=bundle, root_path="/crossvit"))


@pytest.fixture
def browser(app: FastAPI) -> TestClient:
    return TestClient(app, headers=HTML)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json;q=0.5, text/html;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        (";;,=;q=,", False),
    ],
)
def test_a_client_that_names_html_gets_the_page_and_every_other_one_json(app: FastAPI, accept: str, html: bool) -> None:
    assert prefers_html(accept) == html
    response = TestClient(app).get("/", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html" if html else "application/json")
    if not html:
        assert response.json()["classify"] == "classify"


def test_without_the_page_setting_a_browser_gets_json_and_no_file(bundle: Path) -> None:
    browser = TestClient(create_app(Settings(bundle=bundle, page=False)), headers=HTML)
    assert browser.get("/").json()["models"] == "models"
    assert browser.get("/page/main.js").status_code == 404


def test_the_page_runs_no_script_and_no_style_but_those_of_its_files(browser: TestClient) -> None:
    page = browser.get("/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:|https?://", page.text)
    expected = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-site",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    assert {name: page.headers.get(name) for name in expected} == expected


@pytest.mark.parametrize("below", ["/", "/crossvit/"])
def test_all_that_the_page_needs_is_beside_it_whatever_the_path_of_a_proxy(browser: TestClient, below: str) -> None:
    needed = re.findall(r'(?:src|href)="(page/[^"]+)"', browser.get(below).text)
    modules = [name for name in needed if name.endswith(".js")]
    assert {f"page/{path.name}" for path in (FOLDER / "static").glob("*.js")} == {*modules}
    assert len([name for name in needed if name.endswith(".jpg")]) == 8
    for name in needed:
        found = browser.get(str(httpx.URL(f"http://testserver{below}").join(name)))
        assert found.status_code == 200, name
        assert "javascript" in found.headers["Content-Type"] or not name.endswith(".js")


def test_a_path_prefix_without_its_slash_is_redirected_to_the_one_with_it(browser: TestClient) -> None:
    redirect = browser.get("/crossvit", follow_redirects=False)
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "crossvit/")
    assert "<title>CrossViT</title>" in browser.get("/crossvit").text


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/style.css", "/page/photographs/chelsea.jpg"])
def test_files_are_asked_for_again_and_not_sent_again(browser: TestClient, path: str) -> None:
    first = browser.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    again = browser.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert browser.head(path).headers["Content-Length"] == str(len(first.content))
    assert browser.get(path, headers={"If-None-Match": '"another"'}).content == first.content


@pytest.mark.parametrize(
    "path",
    [
        "/page/../page_routes.py",
        "/page/%2e%2e/page_routes.py",
        "/page/..%2fpage_routes.py",
        "/page/photographs/../../page_routes.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/..\\page_routes.py",
        "/page/main.js%00.css",
        "/page/index.html",
        "/page/photographs",
        "/page/",
        "/page",
        f"/page/{'x' * 3000}",
    ],
)
def test_a_path_never_leaves_the_folder_of_the_page(server: Server, path: str) -> None:
    with connect(server) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"serve_page" not in response
    assert b"root:" not in response


def test_the_log_says_where_the_page_is(server: Server) -> None:
    wait_until(lambda: f"in a browser: {server.url}/" in server.log_text())


def test_the_files_of_the_page_only_take_get(browser: TestClient) -> None:
    refused = browser.post("/page/main.js")
    assert refused.status_code == 405
    assert "GET" in refused.headers["Allow"]


def test_sources_of_all_photographs_are_in_the_notice() -> None:
    notice = (FOLDER.parents[1] / "NOTICE").read_text()
    for photograph in (FOLDER / "static" / "photographs").iterdir():
        assert re.search(rf"\b{photograph.stem}\b", notice.partition("app/page/")[2]), photograph.name
