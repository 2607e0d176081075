"""The local service, with the checks that the container has to pass as well (tests/docker/test_compose.py)."""

import signal
from pathlib import Path

from tests.support.servers import StartServer
from tests.support.service_checks import (
    GRACE_SECONDS,
    MAX_QUEUE,
    check_bad_images,
    check_overload,
    check_photographs,
    check_stop,
)


def test_a_service_from_its_start_to_its_stop(bundle: Path, start_server: StartServer) -> None:
    options = ["--max-queue", str(MAX_QUEUE), "--max-images", "4", "--grace-seconds", str(GRACE_SECONDS)]
    server = start_server("--bundle", str(bundle), *options)
    server.wait_until_ready()
    check_photographs(server.url, bundle)
    check_bad_images(server.url)
    check_overload(server.url)

    def stop() -> None:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0

    check_stop(server.url, stop)
