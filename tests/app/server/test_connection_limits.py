"""Which connection makes room, without any."""

import asyncio
import time

import pytest

from app.server.connection_limits import ConnectionLimiter, ConnectionState, StartScheduler


class Fake:
    """A connection that says when it is closed."""

    def __init__(self) -> None:
        self.open = True

    def abort(self) -> None:
        self.open = False


def added(port: ConnectionLimiter, *states: ConnectionState) -> list[Fake]:
    found = []
    for state in states:
        found.append(Fake())
        port.add(found[-1])
        if found[-1].open:
            port.set_state(found[-1], state)
    return found


def test_the_one_that_has_been_idle_longest_makes_room() -> None:
    port = ConnectionLimiter(3)
    working, first, second = added(port, ConnectionState.WORKING, ConnectionState.IDLE, ConnectionState.IDLE)
    port.set_state(first, ConnectionState.WORKING)
    port.set_state(first, ConnectionState.IDLE)  # it has been idle for a shorter time than the second now
    (third,) = added(port, ConnectionState.IDLE)
    assert [one.open for one in (working, first, second, third)] == [True, True, False, True]
    assert len(port) == 3


def test_more_bytes_of_a_head_do_not_make_a_connection_less_idle() -> None:
    port = ConnectionLimiter(2)
    slow, other = added(port, ConnectionState.IDLE, ConnectionState.IDLE)
    port.set_state(slow, ConnectionState.IDLE)
    added(port, ConnectionState.IDLE)
    assert (slow.open, other.open) == (False, True)


def test_a_body_that_has_stopped_coming_makes_room_and_one_that_comes_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    port = ConnectionLimiter(2)
    stalled, arriving = added(port, ConnectionState.RECEIVING, ConnectionState.RECEIVING)
    (refused,) = added(port, ConnectionState.IDLE)
    assert (stalled.open, arriving.open, refused.open) == (True, True, False)
    now += 10
    port.set_state(arriving, ConnectionState.RECEIVING)
    (new,) = added(port, ConnectionState.IDLE)
    assert (stalled.open, arriving.open, new.open) == (False, True, True)


def test_beyond_those_at_work_there_is_room_for_probes() -> None:
    port = ConnectionLimiter(2, max_probes=2)
    working = added(port, ConnectionState.WORKING, ConnectionState.WORKING)
    first, second, third = Fake(), Fake(), Fake()
    for one in (first, second, third):
        port.add(one)
    assert [one.open for one in (*working, first, second, third)] == [True, True, False, True, True]
    assert port.is_probe_only(second)
    port.remove(working[0])
    port.remove(working[1])
    assert not port.is_probe_only(second)  # there is room for all again


def test_a_flood_writes_a_line_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    port = ConnectionLimiter(1)
    added(port, *1000 * [ConnectionState.IDLE])
    assert len(caplog.messages) == 1
    now += 11
    added(port, ConnectionState.IDLE)
    assert caplog.messages[1:] == ["more than 1 connections: 999 closed to make room"]


def test_one_thing_starts_in_each_turn_of_the_loop_and_in_order() -> None:
    async def started() -> list[object]:
        seen: list[object] = []
        turns = StartScheduler()
        for number in range(3):
            turns.schedule(lambda number=number: seen.append(number))  # type: ignore[misc]
        for _ in range(4):
            seen.append("turn")
            await asyncio.sleep(0)
        turns.schedule(lambda: seen.append("later"))
        await asyncio.sleep(0)
        return seen

    assert asyncio.run(started()) == ["turn", 0, "turn", 1, "turn", 2, "turn", "later"]
