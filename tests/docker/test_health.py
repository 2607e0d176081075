"""The images' health check, without the images."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.docker.containers import ROOT


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(ROOT / "docker" / "health.py")]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", ["{}", '"{}"', " {}\n", "+{}", "{}.0", "\ufeff{}"])
@pytest.mark.parametrize("host", ["", "0.0.0.0", '" 127.0.0.1 "'])  # noqa: S104
def test_it_asks_where_the_environment_has_the_service_listen(port: int, form: str, host: str) -> None:
    done = check(CROSSVIT_PORT=form.format(port), CROSSVIT_HOST=host)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_url_of_a_kubernetes_service_is_no_port() -> None:
    done = check(CROSSVIT_PORT="tcp://10.96.0.12:8000", CROSSVIT_HOST="127.9.9.9")  # where nobody listens
    assert "no answer: ConnectionRefusedError" in done.stderr
    assert "Traceback" not in done.stderr
