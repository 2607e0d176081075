"""Access control: API keys, admin keys, the admin port, and rate limits."""

import hmac
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from app.api.key_files import KeyFile, key_digest, parse_key
from app.errors import BadParameter, Forbidden, RateLimited, TooLarge, Unauthorized

log = logging.getLogger(__name__)

_RATE = re.compile(r"(?P<images>\d{1,12})/(?P<window>second|minute|hour|day)")
_WINDOW_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class AccessLevel(IntEnum):
    """What a caller may do; each level includes those before it."""

    OPEN = 0
    KEY = 1
    ADMIN = 2


class Keys:
    """The keys of one kind, with the names of their owners.

    A key is written as app.api.key_files.KEY_FORMAT says. BadParameter if one cannot be read at the start; KeyFile
    says how later errors in the file are treated.

    Args:
        setting: keys of the command line or environment.
        file: a file with more of them, which is read again when it changes.
    """

    def __init__(self, setting: Iterable[str], file: Path | None) -> None:
        self._of_setting = _parse_keys(setting)
        self.file = None if file is None else KeyFile(file)

    def __bool__(self) -> bool:
        """Whether a key is required; an empty file requires one that nobody has."""
        return bool(self._of_setting) or self.file is not None

    @property
    def names(self) -> dict[bytes, str]:
        """The names of all keys by their digests."""
        return self._of_setting | self.file.keys if self.file is not None else self._of_setting

    def owner(self, key: str) -> str | None:
        """The name of `key`, None for an unknown one; takes the same time for every key."""
        digest = key_digest(key)
        owner = None
        for known, name in self.names.items():
            if hmac.compare_digest(known, digest):
                owner = name
        return owner


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


class AccessControl:
    """Decides by a request's key and port what it may do.

    Without admin keys the admin port itself grants admin access. Where there is an admin port, admin routes are closed
    on every other port.

    Args:
        keys: they allow to classify; without any, every caller may.
        admin_keys: they allow everything.
        admin_port: the number of the admin port; None if there is none.
        limit: the rate limit of each API key; admin keys have none.
    """

    def __init__(self, keys: Keys, admin_keys: Keys, admin_port: int | None, limit: RateLimit | None) -> None:
        self.keys = keys
        self._admin_keys = admin_keys
        self.admin_port = admin_port
        self._limit = limit
        for digest in keys.names.keys() & admin_keys.names.keys():
            log.warning("the key of %r is an admin key too: it allows everything", keys.names[digest])

    def watch(self) -> None:
        """Read the key files again whenever they change, until `close`."""
        for file in self.key_files.values():
            file.watch()

    def close(self) -> None:
        for file in self.key_files.values():
            file.close()

    @property
    def key_files(self) -> dict[str, KeyFile]:
        """The key files by their kind, "api" or "admin"."""
        files = {"api": self.keys.file, "admin": self._admin_keys.file}
        return {kind: file for kind, file in files.items() if file is not None}

    def check(
        self, headers: Mapping[str, str], port: int | None, required: AccessLevel, *, rate_limited: bool = False
    ) -> str:
        """The caller's name, "" for a caller without a key.

        A `rate_limited` request counts as one image. Raises Unauthorized, Forbidden or RateLimited.
        """
        if required == AccessLevel.OPEN:
            return ""
        on_admin_port = self._is_admin_port(port)
        if required == AccessLevel.ADMIN and not on_admin_port:
            if self.admin_port is not None:
                raise Forbidden("this is open on the admin port only")
            if not self._admin_keys:
                raise Forbidden("this is closed: the service has neither admin keys nor an admin port")
        level, name = self._caller(headers, on_admin_port)
        if level < required:
            if name:
                raise Forbidden("this needs an admin key")
            kind = "an admin key" if required == AccessLevel.ADMIN else "a key"
            raise Unauthorized(f"send {kind} that the service knows, as Authorization: Bearer KEY or X-API-Key: KEY")
        if rate_limited and self._limit is not None and name and level == AccessLevel.KEY:
            self._limit.take(name)
        return name

    def charge(self, headers: Mapping[str, str], port: int | None, images: int) -> None:
        """Count the `images` of a request that `check` accepted as rate limited, one of which it counted already.

        Raises RateLimited, or TooLarge for more than the rate ever allows.
        """
        level, name = self._caller(headers, self._is_admin_port(port))
        if self._limit is not None and name and level == AccessLevel.KEY:
            self._limit.take(name, images, paid=1)

    def port_grants_admin(self, port: int | None) -> bool:
        """Whether a request to `port` has admin access without a key."""
        return self._is_admin_port(port) and not self._admin_keys

    def _is_admin_port(self, port: int | None) -> bool:
        return self.admin_port is not None and port == self.admin_port

    def _caller(self, headers: Mapping[str, str], on_admin_port: bool) -> tuple[AccessLevel, str]:
        key = _key_in(headers)
        if admin := self._admin_keys.owner(key):
            return AccessLevel.ADMIN, admin
        name = self.keys.owner(key) or ""
        if on_admin_port and not self._admin_keys:
            return AccessLevel.ADMIN, name
        return (AccessLevel.KEY if name or not self.keys else AccessLevel.OPEN), name


def _key_in(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _parse_keys(setting: Iterable[str]) -> dict[bytes, str]:
    keys = {}
    for number, line in enumerate(setting, start=1):
        try:
            digest, name = parse_key(line)
        except ValueError as err:
            raise BadParameter(f"key {number} of the setting {err}") from None
        keys[digest] = name
    return keys
