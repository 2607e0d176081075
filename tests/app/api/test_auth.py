"""Keys, admin keys and rates: alone, and at a service that has all of them."""

import hmac
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.api.auth import AccessControl, AccessLevel, Keys, RateLimit
from app.configuration.settings import Settings
from app.errors import BadParameter, Forbidden, RateLimited, TooLarge, Unauthorized
from app.main import create_app
from bundle.bundle_errors import ExplainedError
from tests.support.clock import Clock
from tests.support.servers import StartServer, free_port
from tests.support.waiting import wait_until

ANN, BOB, CAT, DAN = "ann-0123456789", "bob-0123456789", "cat-0123456789", "dan-0123456789"
ADMIN = "admin-0123456789"
MAIN, SIDE = 8000, 9000  # ports
ADMIN_URL = f"http://127.0.0.1:{SIDE}"
NONE = Keys([], None)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Keys


def test_a_key_has_the_name_that_was_given_or_one_of_its_own() -> None:
    keys = Keys([f"ann:{ANN}", BOB, CAT], None)
    assert keys.owner(ANN) == "ann"
    names = [keys.owner(BOB), keys.owner(CAT)]
    assert len({*names}) == 2
    assert all(name and name.startswith("key-") and name[4:] not in BOB + CAT for name in names)


def test_only_the_whole_key_is_the_key() -> None:
    keys = Keys([f"ann:{ANN}"], None)
    others = ["", ANN[:-1], ANN + "0", ANN.upper(), f"ann:{ANN}", f" {ANN}", "ann", "\udcff", "é" * 8]
    assert [keys.owner(other) for other in others] == [None] * len(others)


def test_a_name_may_have_several_keys() -> None:
    keys = Keys([f"ann:{ANN}", f"ann:{BOB}"], None)
    assert keys.owner(ANN) == keys.owner(BOB) == "ann"


@pytest.mark.parametrize(
    "line", ["short", "ann:short", "ann:seven77", ":" + ANN, f"a name:{ANN}", f"ann:{ANN} x", f"ann:{ANN}é", "a" * 600]
)
def test_an_invalid_key_is_refused_without_being_shown(line: str) -> None:
    with pytest.raises(BadParameter, match="key 2 of the setting is not NAME:KEY") as caught:
        Keys([f"bob:{BOB}", line], None)
    assert line not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_known_key_is_compared_in_constant_time_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        assert len(one) == len(other)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys([ANN, BOB, CAT], None)
    for key in (ANN, BOB, CAT, "unknown", ""):
        compared.clear()
        keys.owner(key)
        assert compared == [32, 32, 32]


def test_keys_are_not_held_as_they_are() -> None:
    held = repr(vars(Keys([f"ann:{ANN}"], None)))
    assert "ann" in held
    assert ANN not in held


def test_a_file_without_keys_lets_nobody_in_and_no_file_asks_for_none(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    assert Keys([], tmp_path / "keys")
    assert not NONE


def test_the_setting_counts_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"ann:{ANN}")
    keys = Keys([f"cat:{CAT}"], tmp_path / "keys")
    assert (keys.owner(ANN), keys.owner(CAT), keys.owner(BOB)) == ("ann", "cat", None)


def test_a_key_that_is_an_admin_key_too_is_warned_of_without_being_shown(caplog: pytest.LogCaptureFixture) -> None:
    AccessControl(Keys([f"ann:{ANN}"], None), Keys([f"root:{ANN}"], None), None, None)
    assert "the key of 'ann' is an admin key too" in caplog.text
    assert ANN not in caplog.text


# Access


def outcome(
    checked: AccessControl, key: str, port: int, needed: AccessLevel, header: Callable[[str], dict[str, str]] = bearer
) -> str | type[ExplainedError]:
    headers = {name.lower(): value for name, value in (header(key) if key else {}).items()}
    try:
        return checked.check(headers, port, needed)
    except ExplainedError as err:
        return type(err)


KEYS, ADMINS = Keys([f"ann:{ANN}"], None), Keys([f"root:{ADMIN}"], None)


@pytest.mark.parametrize(
    ("keys", "admins", "admin_port", "expected"),
    [
        # for no key, a wrong one, an API key, an admin key: what a route for keys says, then what one for admins says
        (NONE, NONE, None, ["", "", "", "", Forbidden, Forbidden, Forbidden, Forbidden]),
        (KEYS, NONE, None, [Unauthorized, Unauthorized, "ann", Unauthorized, *4 * [Forbidden]]),
        (NONE, ADMINS, None, ["", "", "", "root", Unauthorized, Unauthorized, Unauthorized, "root"]),
        (KEYS, ADMINS, None, [*2 * [Unauthorized], "ann", "root", *2 * [Unauthorized], Forbidden, "root"]),
        (KEYS, ADMINS, SIDE, [*2 * [Unauthorized], "ann", "root", *4 * [Forbidden]]),
        (KEYS, NONE, SIDE, [*2 * [Unauthorized], "ann", Unauthorized, *4 * [Forbidden]]),
    ],
)
def test_what_the_main_port_opens(keys: Keys, admins: Keys, admin_port: int | None, expected: list[object]) -> None:
    checked = AccessControl(keys, admins, admin_port, None)
    tried = [
        (level, key) for level in (AccessLevel.KEY, AccessLevel.ADMIN) for key in ("", "wrong-0123456789", ANN, ADMIN)
    ]
    assert [outcome(checked, key, MAIN, level) for level, key in tried] == expected


@pytest.mark.parametrize(
    ("admins", "expected"),
    [
        (NONE, ["", "", "ann", ""]),  # the port alone makes an admin, whatever key is sent
        (ADMINS, [Unauthorized, Unauthorized, Forbidden, "root"]),
    ],
)
def test_what_the_admin_port_opens(admins: Keys, expected: list[object]) -> None:
    checked = AccessControl(KEYS, admins, SIDE, None)
    assert [outcome(checked, key, SIDE, AccessLevel.ADMIN) for key in ("", "wrong-0123456789", ANN, ADMIN)] == expected


def test_what_is_open_takes_any_key() -> None:
    assert outcome(AccessControl(KEYS, ADMINS, SIDE, None), "wrong-0123456789", MAIN, AccessLevel.OPEN) == ""


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("Authorization", f"Bearer {ANN}", True),
        ("Authorization", f"bearer   {ANN} ", True),
        ("X-API-Key", ANN, True),
        ("Authorization", ANN, False),
        ("Authorization", f"Basic {ANN}", False),
        ("Authorization", "Bearer", False),
        ("Cookie", f"key={ANN}", False),
    ],
)
def test_where_a_key_is_looked_for(name: str, value: str, known: bool) -> None:
    found = outcome(AccessControl(KEYS, NONE, None, None), ANN, MAIN, AccessLevel.KEY, lambda _: {name: value})
    assert found == ("ann" if known else Unauthorized)


# Rates


def refused(limit: RateLimit, images: int = 1, paid: int = 0) -> int | None:
    """After how many seconds ann may send so many images."""
    with pytest.raises(RateLimited) as caught:
        limit.take("ann", images, paid=paid)
    return caught.value.retry_after


def test_a_rate_is_of_each_key_and_says_when_to_come_again() -> None:
    clock = Clock()
    limit = RateLimit("2/minute", clock)
    limit.take("ann")
    clock.now += 10
    limit.take("ann")
    limit.take("bob")
    with pytest.raises(RateLimited, match="the limit of 2 images per minute for each key is reached"):
        limit.take("ann")
    assert refused(limit) == 50


def test_a_rate_is_of_a_moving_window_in_which_refusals_do_not_count() -> None:
    clock = Clock()
    limit = RateLimit("1/second", clock)
    limit.take("ann")
    for _ in range(5):
        assert refused(limit) == 1
    clock.now += 1
    limit.take("ann")


def test_a_rate_counts_images_and_says_when_there_is_room_for_all_of_them() -> None:
    clock = Clock()
    limit = RateLimit("10/minute", clock)
    limit.take("ann", 6)
    clock.now += 20
    limit.take("ann", 4)
    assert refused(limit, 6) == 40
    assert refused(limit, 7) == 60
    clock.now += 40
    limit.take("ann", 6)


def test_what_a_request_paid_before_its_images_were_known_is_a_part_of_them_or_given_back() -> None:
    limit = RateLimit("10/minute", Clock())
    for _ in range(2):
        limit.take("ann")
        limit.take("ann", 4, paid=1)
    for _ in range(20):
        limit.take("ann")
        assert refused(limit, 4, paid=1) == 60
    limit.take("ann", 2)


def test_more_images_than_a_rate_ever_allows_are_refused_with_the_rate() -> None:
    limit = RateLimit("2/minute", Clock())
    limit.take("ann")
    with pytest.raises(TooLarge, match=r"32 images in one request are more than the limit of 2 images per minute"):
        limit.take("ann", 32, paid=1)
    limit.take("ann", 2)


def test_a_rate_keeps_nothing_of_windows_that_have_passed() -> None:
    clock = Clock()
    limit = RateLimit("1000/second", clock)
    for number in range(500):
        limit.take(f"key-{number % 50}")
    clock.now += 1.1
    limit.take("last")
    assert [*limit._usage] == ["last"]


@pytest.mark.parametrize("limit", ["0/minute", "many", "5"])
def test_an_invalid_rate_is_refused(limit: str) -> None:
    with pytest.raises(BadParameter, match="rate limit"):
        RateLimit(limit)


# A service with everything


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"bob:{BOB}\n")
    return file


@pytest.fixture(scope="module")
def guarded(bundle: Path, key_file: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSVIT_API_KEYS", f"ann:{ANN},{CAT},{DAN}")
        patch.setenv("CROSSVIT_ADMIN_KEYS", f"root:{ADMIN}")
        settings = Settings(
            bundle=bundle,
            engine="onnxruntime",
            precision="f32",
            decoders=1,
            api_keys_file=key_file,
            admin_port=SIDE,
            rate_limit="3/hour",
            health_access="key",
            metrics_access="admin",
        )
    with TestClient(create_app(settings), base_url=f"http://127.0.0.1:{MAIN}") as client:
        wait_until(lambda: client.get("/readyz", headers=bearer(ANN)).status_code == 200)
        yield client


def test_keys_of_the_environment_and_of_the_file_open_what_is_for_keys(guarded: TestClient) -> None:
    for headers in (bearer(ANN), {"X-API-Key": CAT}, bearer(BOB)):
        assert guarded.get("/models", headers=headers).status_code == 200


def test_without_a_key_that_is_known_it_is_401(guarded: TestClient) -> None:
    for headers in ({}, bearer("wrong-0123456789"), {"X-API-Key": ANN[:-1]}):
        for path in ("models", "v2", "livez", "readyz", "v2/health/live", "v2/health/ready"):
            response = guarded.get(f"/{path}", headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.post(f"/classify?key={ANN}", content=b"x").status_code == 401


def test_a_key_file_that_is_rewritten_counts_without_a_restart(guarded: TestClient, key_file: Path) -> None:
    def status(key: str) -> int:
        return guarded.get("/models", headers=bearer(key)).status_code

    new = "new-0123456789"
    assert (status(BOB), status(new)) == (200, 401)
    key_file.write_text(f"bob:{new}\n")
    wait_until(lambda: status(new) == 200)
    assert (status(BOB), status(new), status(ANN)) == (401, 200, 200)
    key_file.write_text(f"bob:{BOB}\n")
    wait_until(lambda: status(BOB) == 200)
    assert (status(BOB), status(new)) == (200, 401)


def test_admin_routes_open_to_an_admin_key_on_the_admin_port_alone(guarded: TestClient) -> None:
    def status(url: str, headers: dict[str, str]) -> int:
        return guarded.post(f"{url}/admin/reload", headers=headers).status_code

    assert [status(ADMIN_URL, headers) for headers in ({}, bearer(ANN), bearer(ADMIN))] == [401, 403, 200]
    for headers in ({}, bearer(ANN), bearer(ADMIN)):
        assert status("", headers) == 403
    pretended = bearer(ADMIN) | {"Host": ADMIN_URL.removeprefix("http://"), "X-Forwarded-Port": "9000"}
    assert status("", pretended) == 403


def test_a_request_is_of_the_admin_port_only_if_its_socket_is(bundle: Path, start_server: StartServer) -> None:
    port = free_port()
    server = start_server("--bundle", str(bundle), "--engine", "onnxruntime", "--admin-port", str(port))
    server.wait_until_alive()
    headers = {"Host": f"127.0.0.1:{port}", "X-Forwarded-Port": str(port)}
    for url, status in ((f"http://127.0.0.1:{port}", 404), (server.url, 403)):
        assert httpx.post(f"{url}/v2/repository/models/x/load", headers=headers).status_code == status


def test_metrics_for_admins_are_for_admins(guarded: TestClient) -> None:
    assert guarded.get("/metrics", headers=bearer(ADMIN)).status_code == 403
    assert guarded.get(f"{ADMIN_URL}/metrics", headers=bearer(ANN)).status_code == 403
    assert guarded.get(f"{ADMIN_URL}/metrics", headers=bearer(ADMIN)).status_code == 200


def test_a_key_over_its_rate_is_429_and_other_keys_are_not(guarded: TestClient) -> None:
    def classify(key: str) -> Any:
        return guarded.post("/classify", content=b"no image", headers=bearer(key))

    assert [classify(CAT).status_code for _ in range(3)] == [415] * 3
    refused = classify(CAT)
    assert refused.status_code == 429
    assert 3000 <= int(refused.headers["Retry-After"]) <= 3600
    assert CAT not in refused.text
    assert guarded.get("/models", headers=bearer(CAT)).status_code == 200  # costs nothing
    assert classify(ANN).status_code == 415
    assert [classify(ADMIN).status_code for _ in range(4)] == [415] * 4  # admins have no rate


def test_every_image_of_a_batch_counts_on_every_route(guarded: TestClient) -> None:
    def batch(images: int) -> Any:
        files = [("files", b"no image")] * images
        return guarded.post("/classify/batch", files=files, headers=bearer(DAN))

    def infer(images: int) -> Any:
        tensor = {"name": "encoded", "shape": [images], "datatype": "BYTES", "data": ["bm8gaW1hZ2U="] * images}
        url = "/v2/models/crossvit_tiny/infer"
        return guarded.post(url, json={"inputs": [tensor]}, headers=bearer(DAN))

    assert (batch(4).status_code, infer(4).status_code) == (413, 413)
    assert "4 images in one request are more than the limit of 3 images per hour" in batch(4).text
    assert batch(2).status_code == 200
    for refused in (batch(2), infer(2)):
        assert refused.status_code == 429
        assert 3000 <= int(refused.headers["Retry-After"]) <= 3600
    assert infer(1).status_code == 415
    assert infer(1).status_code == 429


def test_a_service_without_keys_is_open_but_for_admin_routes(client: httpx.Client) -> None:
    for path in ("models", "livez", "readyz", "metrics", "v2"):
        assert client.get(f"/{path}").status_code == 200
    for path in ("admin/reload", "v2/repository/models/crossvit_tiny/unload", "v2/repository/models/x/load"):
        for headers in ({}, bearer(ADMIN)):
            response = client.post(f"/{path}", headers=headers)
            assert response.status_code == 403
            assert "neither admin keys nor an admin port" in response.text


def test_nothing_is_fetched_from_an_address_that_a_client_names(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tempting:
        tempting.setblocking(False)
        url = f"http://127.0.0.1:{tempting.getsockname()[1]}/image.png"
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [url]}
        answers = [
            client.post("/classify", params={"url": url}),
            client.post("/classify", params={"model": url}, files={"file": b"x"}),
            client.post("/classify", data={"file": url, "url": url}, files={"other": b"x"}),
            client.post("/classify", files={"file": (url, url.encode())}),
            client.post("/classify", content=url, headers={"Content-Type": "image/png"}),
            client.post("/classify", json={"url": url, "file": url}),
            client.post(
                "/classify", headers={"Content-Location": url, "Content-Type": f"message/external-body; {url}"}
            ),
            client.post("/v2/models/crossvit_tiny/infer", json={"inputs": [tensor]}),
        ]
        assert all(400 <= answer.status_code < 500 for answer in answers)
        with pytest.raises(BlockingIOError):
            tempting.accept()
