"""The rate limit of keys, on a clock that stands still."""

import pytest

from app.api.rate_limit import RateLimit
from app.errors import BadParameter, RateLimited, TooLarge
from tests.support.clock import Clock


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
