import asyncio
import sys
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import pytest

from app.commands.bench.load_generator import Load, LoadRun
from benchmarks.contest import service_contest
from benchmarks.contest.results import Results
from benchmarks.contest.service_contest import PEERS, Peer, Plan, put_on
from benchmarks.machine import ROOT
from benchmarks.photographs import photographs

BUNDLE = Path("artifacts/crossvit_tiny")
PHOTOS = photographs(ROOT / "export" / "data" / "photos")[:2]


def put_on_slow_server(load: Load, seconds: float, taken: float = 0.05) -> tuple[LoadRun, float, list[bytes]]:
    """Requests to a server that answers one at a time, each after `taken` seconds; and what it got."""
    got: list[bytes] = []

    async def main() -> tuple[LoadRun, float]:
        turn = asyncio.Lock()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            got.append(head + await reader.readexactly(length))
            async with turn:
                await asyncio.sleep(taken)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await put_on(f"http://127.0.0.1:{port}", "request", load, seconds, [b"\xff\xd8\r\n--\x00"])

    return *asyncio.run(main()), got


def test_latency_at_a_fixed_rate_counts_from_when_a_request_was_due() -> None:
    run, elapsed, _ = put_on_slow_server(Load(rate=40.0), 0.5)
    latencies = [sample.done - sample.due for sample in run.samples if sample.good]
    # It answers 20 a second and gets 40: the last of 20 is due after 0.475 s and answered after a second.
    assert len(latencies) == 20
    assert min(latencies) >= 0.05
    assert max(latencies) >= 20 * 0.05 - 19 / 40 - 0.01
    assert elapsed >= 20 * 0.05


def test_a_form_has_the_photograph_in_the_field_that_the_service_wants() -> None:
    run, _, got = put_on_slow_server(Load(clients=2), 0.2)
    assert all(sample.good for sample in run.samples)
    assert len(got) == len(run.samples) >= 2
    _, _, rest = got[0].partition(b"\r\n")
    (part,) = BytesParser(policy=HTTP).parsebytes(rest).iter_parts()
    assert part.get_param("name", header="content-disposition") == "request"
    assert part.get_content() == b"\xff\xd8\r\n--\x00"


def test_the_port_comes_last_in_every_command() -> None:
    assert PEERS["ours"].command(BUNDLE, "untrained")[-3:] == ["--bundle", str(BUNDLE), "--port"]
    lit = PEERS["litserve-onnxruntime"].command(BUNDLE, "untrained")
    assert lit[-3:] == ["onnxruntime", str(BUNDLE), "untrained"]
    assert PEERS["plain"].command(BUNDLE, "untrained")[-2:] == [str(BUNDLE), "untrained"]


class Script(Peer):
    """A service that starts fast: the script is told its port."""

    def command(self, bundle: Path, weights: str) -> list[str]:
        del bundle, weights
        return [sys.executable, self.module]


FAST_SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 256  # each request is a connection

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_all_services_are_measured_in_all_rounds_and_one_that_does_not_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "fast.py"
    script.write_text(FAST_SERVICE)
    monkeypatch.setattr(service_contest, "WARM_UP_SECONDS", 0.1)
    peers = {
        "ours": Script("Fast", str(script)),
        "other": Script("Fast", str(script)),
        "broken": Peer("Broken", "no.such"),
    }
    monkeypatch.setattr(service_contest, "PEERS", peers)
    results = Results()
    service_contest.run(BUNDLE, "crossvit_tiny", "untrained", list(peers), PHOTOS, Plan([2, 1], [0.5], 2, 0.1), results)
    ours, other, broken = results.services
    assert (ours.error, other.error) == ("", "")
    assert broken.error.startswith("ended with status 1")
    for service in (ours, other):
        assert service.proportional_mb
        loads = [load for load in results.loads if load.service == service.service]
        assert [(load.clients, load.round) for load in loads] == [(2, 0), (1, 0), (None, 0), (2, 1), (1, 1), (None, 1)]
        assert all(load.milliseconds and load.errors == 0 for load in loads)
        assert all((load.rate is None) == (load.clients is not None) for load in loads)
    first = [load for load in results.loads if load.service == "ours" and load.clients and load.round == 0]
    of_ours = [len(load.milliseconds) / load.seconds for load in first]
    assert {load.rate for load in results.loads if load.rate} == {0.5 * max(of_ours)}
    of_round = [load.service for load in results.loads if load.clients == 1]
    assert of_round == ["ours", "other", "other", "ours"]  # each round begins with another one


def test_answers_that_are_no_200_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAST_SERVICE.replace("self.do_GET()", "self.send_error(500)"))
    monkeypatch.setattr(service_contest, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(service_contest, "PEERS", {"ours": Script("Failing", str(script))})
    results = Results()
    service_contest.run(BUNDLE, "crossvit_tiny", "untrained", ["ours"], PHOTOS, Plan([1], [0.5], 1, 0.1), results)
    (load,) = results.loads  # no rate follows from a service that answers nothing
    assert load.milliseconds == []
    assert load.errors >= 1
