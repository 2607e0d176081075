"""A service that is slow by a known time, for tests of what measures one: the real one's speed is the machine's."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "secret-of-this-test"
DECODE, QUEUE, INFERENCE, TOTAL = 4.0, 1.0, 10.0, 16.0
RETRY_AFTER = 7

MODEL = {"name": "slow", "default": True, "state": "READY", "reason": "", "engine": "openvino", "precision": "f32"}
FALLBACK = {"engine": "tensorrt", "resolution": 224, "reason": "no plan"}
ANSWER = {
    "predictions": [],
    "model": {
        "name": "slow",
        "resolution": 224,
        "engine": "openvino",
        "precision": "bf16",
        "weights": "untrained",
        "weights_source": "none",
    },
    "timing_ms": {"decode": DECODE, "queue": QUEUE, "inference": INFERENCE, "total": TOTAL},
    "request_id": "1",
}


class SlowService(ThreadingHTTPServer):
    """`status` says of the number of a request, from 0, how it is answered; 0 cuts its connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, seconds: float, status: Callable[[int], int], keyed: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seconds, self.status, self.keyed = seconds, status, keyed
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests = self.connections = 0
        self.paths: list[str] = []
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowService

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        if not self._refused():
            self._send(200, {"models": [MODEL | {"fallbacks": [FALLBACK]}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        with self.server.lock:
            number = self.server.requests
            self.server.requests += 1
            self.server.paths.append(self.path)
        status = self.server.status(number)
        if status == 0:
            self.close_connection = True
        elif status == 200:
            time.sleep(self.server.seconds)
            self._send(200, ANSWER)
        else:
            self._send(status, {"title": "Busy", "detail": f"number {number}", "status": status})

    def _refused(self) -> bool:
        refused = self.server.keyed and self.headers["Authorization"] != f"Bearer {KEY}"
        if refused:
            self._send(401, {"title": "Unauthorized", "detail": "send a key", "status": 401})
        return refused

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        if status in (429, 503):
            self.send_header("Retry-After", str(RETRY_AFTER))
        self.end_headers()
        with suppress(ConnectionError):  # the client has stopped
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow_service(
    seconds: float = 0.02, status: Callable[[int], int] = lambda _: 200, *, keyed: bool = False
) -> Iterator[SlowService]:
    with SlowService(seconds, status, keyed) as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()
