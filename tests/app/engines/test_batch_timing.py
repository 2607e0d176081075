import time

import pytest

from app.engines.batch_timing import known_seconds, least_seconds, worthwhile_batch


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        ({1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}, 1),  # more images take as much longer
        ({1: 0.1, 2: 0.11, 4: 0.13, 8: 0.17}, 8),  # they cost next to nothing
        ({1: 0.04, 2: 0.08, 4: 0.11, 8: 0.22}, 4),  # four at once, and then twice four
        ({1: 0.002, 2: 0.004, 4: 0.008, 8: 0.016}, 8),  # so quick that the call itself counts
    ],
)
def test_a_batch_is_as_large_as_it_is_worth(seconds: dict[int, float], batch: int) -> None:
    assert worthwhile_batch(seconds) == batch


def test_the_first_call_is_not_counted_and_the_best_of_the_others_is() -> None:
    waits = iter([0.2, 0.05, 0.01, 0.05])
    assert 0.01 <= least_seconds(lambda: time.sleep(next(waits))) < 0.05
    assert next(waits, None) is None


def test_a_long_call_is_measured_once() -> None:
    waits = iter([0.0, 0.6])
    assert least_seconds(lambda: time.sleep(next(waits))) >= 0.6


class Store:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def read(self, _: str) -> None:
        raise AssertionError

    write = read

    def read_json(self, name: str) -> object:
        return self.kept.get(name)

    def write_json(self, name: str, value: object) -> None:
        self.kept[name] = value  # type: ignore[assignment]


def test_what_was_measured_is_not_measured_again() -> None:
    store = Store()
    assert known_seconds(store, "a", lambda: {1: 0.5}) == {1: 0.5}  # type: ignore[arg-type]
    assert known_seconds(store, "a", lambda: {1: 0.7}) == {1: 0.5}  # type: ignore[arg-type]
    assert known_seconds(None, "a", lambda: {1: 0.7}) == {1: 0.7}
