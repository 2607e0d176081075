"""The rate limit of API keys."""

import math
import re
import time
from collections import deque
from collections.abc import Callable

from app.errors import BadParameter, RateLimited, TooLarge

_RATE = re.compile(r"(?P<images>\d{1,12})/(?P<window>second|minute|hour|day)")
_WINDOW_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class RateLimit:
    """Limits the images of each key in a moving window; `limit` is such as "100/minute", else BadParameter."""

    def __init__(self, limit: str, clock: Callable[[], float] = time.monotonic) -> None:
        match = _RATE.fullmatch(limit)
        if match is None:
            raise BadParameter(f"the rate limit {limit!r} is not of the form 100/minute (second, minute, hour or day)")
        self._max_images = int(match["images"])
        self._rate = f"{self._max_images} image{'s' * (self._max_images > 1)} per {match['window']}"
        self._window = _WINDOW_SECONDS[match["window"]]
        if self._max_images < 1:
            raise BadParameter(f"the rate limit {limit} would refuse every request: set 1 or more images")
        self._usage: dict[str, _Usage] = {}  # by the key's name
        self._clock = clock
        self._last_cleanup = clock()

    def take(self, name: str, images: int = 1, *, paid: int = 0) -> None:
        """Count `images` of a request for the key called `name`; `paid` of them were counted before.

        Raises RateLimited if the window has no room for them, TooLarge if no window ever has. Then `paid` images are
        uncounted again.
        """
        now = self._clock()
        self._clean_up(now)
        usage = self._usage.setdefault(name, _Usage())
        usage.forget(now - self._window)
        if usage.images + images - paid <= self._max_images:
            usage.add(now, images - paid)
            return
        usage.give_back(paid)
        if images > self._max_images:
            raise TooLarge(
                f"{images} images in one request are more than the limit of {self._rate} for each key: send fewer"
            )
        seconds = math.ceil(usage.time_of(usage.images + images - self._max_images) + self._window - now)
        raise RateLimited(f"the limit of {self._rate} for each key is reached", retry_after=max(1, seconds))

    def _clean_up(self, now: float) -> None:
        """Forget keys that have sent nothing for a whole window; done once a window."""
        if now - self._last_cleanup < self._window:
            return
        self._last_cleanup = now
        for name, usage in list(self._usage.items()):
            usage.forget(now - self._window)
            if not usage.images:
                del self._usage[name]


class _Usage:
    """The images that one key has sent within the window."""

    def __init__(self) -> None:
        self.images = 0
        self._entries: deque[tuple[float, int]] = deque()  # time and number of images; the oldest first

    def add(self, time_sent: float, images: int) -> None:
        self._entries.append((time_sent, images))
        self.images += images

    def forget(self, before: float) -> None:
        while self._entries and self._entries[0][0] <= before:
            self.images -= self._entries.popleft()[1]

    def give_back(self, images: int) -> None:
        """Uncount `images`, the latest ones: of one key, any are as good."""
        while images and self._entries:
            time_sent, count = self._entries.pop()
            back = min(images, count)
            images -= back
            self.images -= back
            if count > back:
                self._entries.append((time_sent, count - back))

    def time_of(self, images: int) -> float:
        """When the oldest `images` had been sent."""
        for time_sent, count in self._entries:
            images -= count
            if images <= 0:
                return time_sent
        raise ValueError(f"fewer than {images} more images were sent")
