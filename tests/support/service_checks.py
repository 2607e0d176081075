"""What a running service has to do, however it was started: seen over HTTP alone."""

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from app.decoding.image_decoding import decode
from app.engines.cpu.onnxruntime_engine import OnnxRuntimeEngine
from bundle.reader import open_bundle
from bundle.scores import best_classes
from tests.support.pictures import encoded, scene
from tests.support.waiting import wait_until

PHOTOS = sorted((Path(__file__).parents[2] / "export" / "data" / "photos").glob("*.jpg"))
MAX_QUEUE = 8  # what the service was started with
GRACE_SECONDS = 5.0

_BROKEN = PHOTOS[0].read_bytes()[:5000]
_BAD = [
    (b"", 400),
    (b"no image", 415),
    (b"%PDF-1.7", 415),
    (_BROKEN, 422),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), 422),
    (encoded(scene(64, 64)) + bytes(11_000_000), 413),
]


def check_photographs(url: str, bundle: Path) -> None:
    """Each photograph that ships is answered as the graph in `bundle` answers its pixels, in several formats."""
    opened = open_bundle(bundle)
    reference = OnnxRuntimeEngine((bundle / "model.onnx").read_bytes)
    reference.load(224)
    bodies = [photo.read_bytes() for photo in PHOTOS] + [encoded(scene(300, 200), kind) for kind in ("PNG", "WEBP")]
    with httpx.Client(base_url=url, timeout=60) as client:
        for body in bodies:
            pixels = decode(body, opened.manifest.preprocessing[224], 10**9)
            expected = best_classes(reference.run(pixels[np.newaxis])[0][0], 3)
            response = client.post("/classify", params={"top_k": 3}, files={"file": body})
            assert response.status_code == 200, response.text
            answer = response.json()["predictions"]
            assert [prediction["index"] for prediction in answer] == [index for index, _ in expected]
            scores = [prediction["score"] for prediction in answer]
            np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-3)


def check_bad_images(url: str) -> None:
    """What is no image is refused for what it is, and the service goes on."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for body, status in _BAD:
            response = client.post("/classify", content=body, headers={"Content-Type": "image/jpeg"})
            assert response.status_code == status, response.text
            assert response.headers["Content-Type"] == "application/problem+json"
        assert client.post("/classify", files={"file": PHOTOS[0].read_bytes()}).status_code == 200


def check_overload(url: str) -> None:
    """Far more at once than may wait: some are refused, all others answered, and a probe is answered meanwhile."""
    body = PHOTOS[0].read_bytes()

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=200)) as client:
            requests = [asyncio.create_task(client.post("/classify", files={"file": body})) for _ in range(100)]
            await asyncio.sleep(0.1)
            assert (await client.get("/livez", timeout=30)).status_code == 200
            return list(await asyncio.gather(*requests))

    responses = asyncio.run(main())
    counts = Counter(response.status_code for response in responses)
    assert counts.keys() == {200, 429}, counts
    assert counts[200] >= MAX_QUEUE
    refused = next(response for response in responses if response.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert f"{MAX_QUEUE} images wait" in refused.json()["detail"]


@contextmanager
def asking(url: str, clients: int = 4, trust: ssl.SSLContext | bool = True) -> Iterator[Counter[str]]:
    """Clients that ask again and again, each time over a new connection; how often which answer or error came."""
    answers: Counter[str] = Counter()
    going = threading.Event()
    body = PHOTOS[0].read_bytes()

    def ask() -> None:
        while not going.is_set():
            try:
                with httpx.Client(base_url=url, timeout=60, verify=trust) as client:
                    answers[str(client.post("/classify", files={"file": body}).status_code)] += 1
            except httpx.HTTPError as err:
                answers[repr(err)] += 1
            going.wait(0.05)  # what is watched needs the machine too

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        going.set()
        for thread in threads:
            thread.join()


def check_stop(url: str, stop: Callable[[], object]) -> None:
    """`stop`, which returns when the service has ended, loses no request that was made in its time of grace."""
    stopping = threading.Thread(target=stop)
    with asking(url) as answers:
        wait_until(lambda: answers.total() > 4)
        stopping.start()
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        before = answers.total()
        time.sleep(GRACE_SECONDS / 2)
    assert answers.keys() == {"200"}, answers
    assert answers.total() > before
    stopping.join()
    try:
        httpx.get(f"{url}/livez")
    except httpx.TransportError:
        return
    raise AssertionError("it still answers")


def wait_until_ready(url: str, seconds: float = 120) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, seconds)
