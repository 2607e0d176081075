"""nginx with the configuration of docs/examples, before two instances."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.servers import free_port
from tests.support.waiting import wait_until

AVAILABLE = bool(shutil.which("nginx") and shutil.which("openssl"))
_EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nginx.conf"


@dataclass
class Nginx:
    url: str
    plain: str  # without TLS
    trust: ssl.SSLContext


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[Nginx]:
    """nginx before the two `ports`, with a certificate of its own."""
    tls, plain = free_port(), free_port()
    certificate, key = folder / "fullchain.pem", folder / "privkey.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = _EXAMPLE.read_text()
    for written, here in (
        ("127.0.0.1:8001", f"127.0.0.1:{ports[0]}"),
        ("127.0.0.1:8002", f"127.0.0.1:{ports[1]}"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{tls} ssl;"),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("/etc/nginx/tls", str(folder)),
        ("http {", f"http {{ access_log off; {temporary}"),
    ):
        assert written in conf
        conf = conf.replace(written, here)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"daemon off; {user} pid {folder}/pid; error_log {folder}/log;\n{conf}")
    process = subprocess.Popen(
        [str(shutil.which("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]
    )
    started = Nginx(
        f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}", ssl.create_default_context(cafile=certificate)
    )
    try:
        wait_until(lambda: process.poll() is not None or _answers(started.plain), seconds=10)
        assert process.poll() is None, (folder / "log").read_text()
        yield started
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True
