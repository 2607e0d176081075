import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from app.api.dependencies import DISCONNECT_EXTENSION, Service, caller_id, run_while_connected
from app.serving.canary import CANARY, STABLE


@pytest.mark.parametrize(
    ("name", "address", "expected"),
    [
        ("ann", "192.0.2.7", "key ann"),
        ("", "192.0.2.7", "192.0.2.7"),
        ("", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("", "fe80::1%eth0", "fe80::/64"),
        ("", "", ""),
    ],
)
def test_whose_share_a_request_takes(name: str, address: str, expected: str) -> None:
    request = Request({"type": "http", "client": (address, 1), "state": {"caller": name}})
    assert caller_id(request) == expected


def test_the_revision_is_of_the_bundle_that_answers_also_once_the_chosen_canary_is_gone() -> None:
    stable, canary = object(), SimpleNamespace(name="net", model=object(), revision=lambda _: CANARY)
    service: Any = SimpleNamespace(canary=canary, repository=SimpleNamespace(model=lambda _: stable, default="net"))
    assert Service.revision(service, "net", "always") == (canary.model, CANARY)
    canary.model = None  # its engine ended since it was chosen
    assert Service.revision(service, "net", "always", CANARY) == (stable, STABLE)


def checked(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`; what the event loop's exception handler is told fails, and so does a task that is left."""
    reported: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        await main()
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched())
    assert reported == []


class Client:
    """The client of a request, as app.server.request_cycle tells of it."""

    def __init__(self) -> None:
        self.request = Request({"type": "http", "extensions": {DISCONNECT_EXTENSION: self._watch}})
        self._callback: Callable[[], None] | None = None

    def leave(self) -> None:
        if self._callback is not None:
            self._callback()

    def _watch(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback


def test_work_is_cancelled_when_the_client_goes() -> None:
    async def main() -> None:
        client, ended = Client(), asyncio.Event()

        async def work() -> None:
            asyncio.get_running_loop().call_later(0.01, client.leave)
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        with pytest.raises(ClientDisconnect):
            await run_while_connected(client.request, work())
        assert ended.is_set()
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling()

    checked(main)


def test_the_result_and_the_errors_of_the_work_pass_unchanged() -> None:
    async def main() -> None:
        async def result() -> int:
            await asyncio.sleep(0)
            return 7

        async def late() -> int:
            raise TimeoutError("its own")

        assert await run_while_connected(Client().request, result()) == 7
        with pytest.raises(TimeoutError, match="its own"):
            await run_while_connected(Client().request, late())

    checked(main)


def test_where_the_server_does_not_tell_of_clients_work_goes_on_to_its_end() -> None:
    async def main() -> None:
        assert await run_while_connected(Request({"type": "http"}), asyncio.sleep(0, "done")) == "done"

    checked(main)


def test_a_request_that_is_cancelled_itself_is_not_taken_for_one_whose_client_has_gone() -> None:
    async def main() -> None:
        task = asyncio.create_task(run_while_connected(Client().request, asyncio.sleep(60)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    checked(main)


@pytest.mark.parametrize(
    "first",
    [
        "client",
        "work",
    ],
)
def test_a_client_that_goes_in_the_moment_of_its_answer_is_no_error_of_the_service(first: str) -> None:
    async def main() -> None:
        client, answered = Client(), asyncio.Event()
        task = asyncio.create_task(run_while_connected(client.request, answered.wait()))
        await asyncio.sleep(0.01)
        for happen in (client.leave, answered.set) if first == "client" else (answered.set, client.leave):
            happen()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert outcome is True or isinstance(outcome, ClientDisconnect)

    checked(main)
