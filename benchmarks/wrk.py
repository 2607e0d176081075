"""Load from wrk (https://github.com/wg/wrk): it takes little of the processor time that it shares with the service."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SCRIPT = Path(__file__).with_name("wrk_load.lua")
_BOUNDARY = b"0123456789abcdef"
_LONGEST_SECONDS = 60  # for an answer; wrk counts later ones apart


@dataclass(frozen=True)
class WrkRun:
    """What wrk has seen.

    Attributes:
        statuses: how many answers had each status.
        broken: connections that failed.
        late: answers that took longer than a minute.
        seconds: that the run took.
        p50: median time of an answer in seconds.
        p99: its 99th percentile.
    """

    statuses: dict[int, int]
    broken: int
    late: int
    seconds: float
    p50: float
    p99: float

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())


def wrk(url: str, requests: Sequence[bytes], *, clients: int, seconds: float, pause_seconds: float = 0.0) -> WrkRun:
    """Let `clients` send whole HTTP requests in turn, each `pause_seconds` after its last answer. Blocking.

    Raises ValueError if wrk is not installed, and CalledProcessError.
    """
    program = shutil.which("wrk")
    if program is None:
        raise ValueError("wrk is not installed: apt-get install wrk")
    with TemporaryDirectory() as folder:
        files = [Path(folder, str(number)) for number in range(len(requests))]
        for file, request in zip(files, requests, strict=True):
            file.write_bytes(request)
        options = ["--threads", "1", "--connections", str(clients), "--duration", f"{max(1, round(seconds))}s"]
        options += ["--timeout", f"{_LONGEST_SECONDS}s", "--script", str(_SCRIPT), url, "--"]
        command = [program, *options, str(round(1000 * pause_seconds)), *map(str, files)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed.strip().rpartition("\n")[2])
    return WrkRun(**found | {"statuses": {int(status): count for status, count in found["statuses"].items()}})


def raw_request(path: str, body: bytes, content_type: str, *fields: str) -> bytes:
    """A whole POST request; `fields` are more lines of its head."""
    lines = [f"POST {path} HTTP/1.1", "Host: service", f"Content-Type: {content_type}", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def form_request(path: str, field: str, files: Sequence[bytes], *fields: str) -> bytes:
    """A whole POST request with `files` in a form's `field`."""
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="photo.jpg"'.encode()
    parts = [b"--%s\r\n%s\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n" % (_BOUNDARY, disposition, file) for file in files]
    body = b"".join(parts) + b"--%s--\r\n" % _BOUNDARY
    return raw_request(path, body, f"multipart/form-data; boundary={_BOUNDARY.decode()}", *fields)
