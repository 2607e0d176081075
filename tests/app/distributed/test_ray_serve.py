"""The service in replicas of Ray Serve: updates, broken bundles, killed replicas, refusals, drain."""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bundle.bundle_errors import BadBundle
from tests.support.changed_bundles import change_source
from tests.support.pictures import JPEG
from tests.support.servers import free_port
from tests.support.waiting import wait_until

pytest.importorskip("ray", reason="the extra ray is not installed: make test-all installs it")

from ray import serve

from app.distributed.ray_serve import ServeArguments, application

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("ray_here")]

NAME = "crossvit"
CLIENTS = 4

Deploy = Callable[..., None]


@pytest.fixture(scope="module")
def url(ray_here: None) -> str:  # noqa: ARG001, it is there first
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def deploy(url: str) -> Iterator[Deploy]:  # noqa: ARG001, Ray Serve runs
    """Deploys a bundle, and waits until all of its replicas are new; the application is gone after the test."""

    def deploy(bundle: Path, *, replicas: int = 1, **settings: Any) -> None:
        own = {"engine": "onnxruntime", "precision": "f32", "decoders": 1} | settings
        arguments = ServeArguments(bundle=str(bundle), replicas=replicas, settings=own)
        serve.run(application(arguments), name=NAME)

    yield deploy
    serve.delete(NAME)


class Requests:
    """Clients that ask again and again from `with` to its end; what they were answered."""

    def __init__(self, url: str, clients: int = CLIENTS) -> None:
        self._url = url
        self._ending = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self._clients = clients
        self.statuses = Counter[int]()  # 0 for a connection that broke
        self.sources = Counter[str]()

    def __enter__(self) -> "Requests":
        for _ in range(self._clients):
            self._threads.submit(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._threads.shutdown()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ending.is_set():
                try:
                    answer = client.post("/classify", content=JPEG)
                except httpx.TransportError:
                    self.statuses[0] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.sources[answer.json()["model"]["weights_source"]] += 1


def replicas() -> list[psutil.Process]:
    """The processes of the replicas."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any("ServeReplica" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / bundle.name))


def test_the_service_answers_as_it_does_without_ray(
    deploy: Deploy, url: str, bundle: Path, client: httpx.Client
) -> None:
    deploy(bundle, replicas=2)
    with httpx.Client(base_url=url, timeout=60) as through_ray:
        for method, path, content in (
            ("POST", "/classify", JPEG),
            ("POST", "/classify", b"x"),
            ("GET", "/readyz?deep=1", b""),
            ("GET", "/no/such/path", b""),
        ):
            mine = through_ray.request(method, path, content=content, headers={"X-Request-ID": "mine"})
            its = client.request(method, path, content=content, headers={"X-Request-ID": "mine"})
            assert mine.status_code == its.status_code
            assert set(mine.headers.get_list("X-Request-ID")) == {"mine"}  # Ray adds it once more
            for answer in (mine_json := mine.json(), its_json := its.json()):
                answer.pop("timing_ms", None)
            if "predictions" in its_json:
                for one, other in zip(mine_json.pop("predictions"), its_json.pop("predictions"), strict=True):
                    assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
                    assert one == other
            assert mine_json == its_json
        assert "crossvit_queue_images" in through_ray.get("/metrics").text


def test_a_rolling_update_loses_no_request(deploy: Deploy, url: str, bundle: Path, copy: Path) -> None:
    deploy(bundle, replicas=2)
    change_source(copy, "another one")
    with Requests(url) as requests:
        wait_until(lambda: requests.statuses[200] >= 20, 60)
        deploy(copy, replicas=2)
        wait_until(lambda: requests.sources["another one"] >= 20, 60)
    assert set(requests.statuses) == {200}
    assert len(requests.sources) == 2


def test_a_broken_bundle_keeps_the_old_one(deploy: Deploy, url: str, bundle: Path, copy: Path) -> None:
    deploy(bundle, replicas=2)
    (copy / "model.onnx").write_bytes(b"broken")
    with Requests(url) as requests:
        with pytest.raises(BadBundle):
            deploy(copy, replicas=2)
        with pytest.raises(RuntimeError, match=r"(?i)fail"):
            deploy(bundle, replicas=2, engine="tensorrt")  # which no replica can load here
        answered = requests.statuses[200]
        wait_until(lambda: requests.statuses[200] >= answered + 20, 60)
    assert set(requests.statuses) == {200}


def test_a_killed_replica_costs_what_was_in_flight(deploy: Deploy, url: str, bundle: Path) -> None:
    deploy(bundle, replicas=2)
    with Requests(url) as requests:
        wait_until(lambda: requests.statuses[200] >= 20, 60)
        victim, other = replicas()
        victim.send_signal(signal.SIGKILL)
        wait_until(lambda: len({each.pid for each in replicas()} - {victim.pid, other.pid}) == 1, 120, 0.5)
        wait_until(lambda: running() == 2, 120, 0.5)
    failed = sum(count for status, count in requests.statuses.items() if status != 200)
    assert failed <= CLIENTS


def running() -> int:
    """How many replicas Ray sends requests to."""
    states: dict[Any, int] = serve.status().applications[NAME].deployments["crossvit"].replica_states
    return states.get("RUNNING", 0)


def test_a_full_queue_is_refused_by_the_service_and_says_when_to_come_back(
    deploy: Deploy, url: str, bundle: Path
) -> None:
    deploy(bundle, engine="null", precision="auto", null_rate=4, max_queue=4, max_images=1)

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{url}/classify", content=JPEG, timeout=60)

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(ask, range(24)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["reason"] == "QueueFull"


def test_what_was_accepted_is_answered_when_the_application_ends(deploy: Deploy, url: str, bundle: Path) -> None:
    deploy(bundle, engine="null", precision="auto", null_rate=0.5)
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        answer = threads.submit(httpx.post, f"{url}/classify", content=JPEG, timeout=60)
        time.sleep(0.5)  # it is with the engine by now
        serve.delete(NAME)
        assert answer.result().status_code == 200
    assert time.monotonic() - began >= 1.9


def test_what_is_rays_is_no_setting(bundle: Path) -> None:
    with pytest.raises(Exception, match="port is not for a replica"):
        application(ServeArguments(bundle=str(bundle), settings={"port": 9000}))


@pytest.mark.parametrize("options", [{"replicas": 0}, {"replicas": 2, "autoscaling": {}}])
def test_replicas_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"greater than or equal to 1|replicas or autoscaling, not both"):
        ServeArguments(bundle="any", **options)
