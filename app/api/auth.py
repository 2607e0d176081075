"""Who may do what: API keys, admin keys, and how often."""

import hmac
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from app.api.key_files import KeyFile, key_digest, parse_key
from app.errors import BadParameter, Forbidden, RateLimited, TooLarge, Unauthorized

log = logging.getLogger(__name__)

_RATE = re.compile(r"(?P<most>\d{1,12})/(?P<window>second|minute|hour|day)")
_WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}  # seconds


class Level(IntEnum):
    """What a caller may do; each level includes those before it."""

    OPEN = 0
    KEY = 1
    ADMIN = 2


class Keys:
    """Keys by their names: those `given`, and those in `file`, which is read again when it changes.

    One is written NAME:KEY or KEY, of 8 characters or more, without a colon if it has no name. BadParameter if one
    cannot be read now; app.api.key_files says what becomes of the file later.
    """

    def __init__(self, given: Iterable[str], file: Path | None) -> None:
        self._given = _parse(given)
        self.file = None if file is None else KeyFile(file)

    def __bool__(self) -> bool:
        """Whether keys are asked for at all; an empty file asks for one that nobody has."""
        return bool(self._given) or self.file is not None

    @property
    def known(self) -> dict[bytes, str]:
        """The names of all keys by their digests."""
        return self._given | self.file.keys if self.file is not None else self._given

    def owner(self, key: str) -> str | None:
        """The name of `key`, or None; takes the same time whichever key it is or is not."""
        digest = key_digest(key)
        found = None
        for known, name in self.known.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


class RateLimit:
    """At most so many images of one key in a moving window, such as "100/minute"; BadParameter if it is not that."""

    def __init__(self, limit: str) -> None:
        match = _RATE.fullmatch(limit)
        if match is None:
            raise BadParameter(f"the rate limit {limit!r} is not like 100/minute")
        self._most = int(match["most"])
        self._rate = f"{self._most} image{'s' * (self._most > 1)} per {match['window']}"
        self._window = _WINDOWS[match["window"]]
        if self._most < 1:
            raise BadParameter(f"a rate limit of {limit} would let nobody in; it is 1 or more")
        self._taken: dict[str, _Taken] = {}  # by each key
        self._tidied = time.monotonic()

    def take(self, name: str, images: int = 1, *, paid: int = 0) -> None:
        """Count a request of the key called `name` that brings so many images, of which `paid` have been counted.

        RateLimited if the key has had its share, TooLarge if they are more than it ever has; what was paid is given
        back then.
        """
        now = time.monotonic()
        self._tidy(now)
        taken = self._taken.setdefault(name, _Taken())
        taken.forget(now - self._window)
        if taken.images + images - paid <= self._most:
            taken.add(now, images - paid)
            return
        taken.give_back(paid)
        if images > self._most:
            raise TooLarge(
                f"{images} images in one request can never pass the limit of {self._rate} for each key: send fewer"
            )
        seconds = math.ceil(taken.moment_of(taken.images + images - self._most) + self._window - now)
        raise RateLimited(f"the limit of {self._rate} for each key is reached", retry_after=max(1, seconds))

    def _tidy(self, now: float) -> None:
        """Forget keys that have sent nothing for a whole window; looked at once a window."""
        if now - self._tidied < self._window:
            return
        self._tidied = now
        for name, taken in list(self._taken.items()):
            taken.forget(now - self._window)
            if not taken.images:
                del self._taken[name]


class _Taken:
    """What one key has sent within the window."""

    def __init__(self) -> None:
        self.images = 0
        self._entries: deque[tuple[float, int]] = deque()  # when, and how many images; the oldest first

    def add(self, moment: float, images: int) -> None:
        self._entries.append((moment, images))
        self.images += images

    def forget(self, before: float) -> None:
        while self._entries and self._entries[0][0] <= before:
            self.images -= self._entries.popleft()[1]

    def give_back(self, images: int) -> None:
        """Take so many images out again, the latest ones: whose they are of one key's makes no difference."""
        while images and self._entries:
            moment, count = self._entries.pop()
            back = min(images, count)
            images -= back
            self.images -= back
            if count > back:
                self._entries.append((moment, count - back))

    def moment_of(self, images: int) -> float:
        """When so many of the oldest images had been sent."""
        for moment, count in self._entries:
            images -= count
            if images <= 0:
                return moment
        raise ValueError("fewer were sent")


class AccessControl:
    """Decides what a request may do by its key and the port that it came in by.

    The admin port alone makes an admin where there are no admin keys; where there is one, nothing admin happens on
    another port.
    """

    def __init__(self, keys: Keys, admin_keys: Keys, admin_port: int | None, limit: RateLimit | None) -> None:
        self.keys = keys
        self._admin_keys = admin_keys
        self.admin_port = admin_port
        self._limit = limit
        for digest in keys.known.keys() & admin_keys.known.keys():
            log.warning("the key of %r is an admin key too: it may do all", keys.known[digest])

    def watch(self) -> None:
        """Read the files of keys again when they change, until `close`."""
        for file in self.key_files.values():
            file.watch()

    def close(self) -> None:
        for file in self.key_files.values():
            file.close()

    @property
    def key_files(self) -> dict[str, KeyFile]:
        """The files of keys, by what their keys are for."""
        both = {"api": self.keys.file, "admin": self._admin_keys.file}
        return {kind: file for kind, file in both.items() if file is not None}

    async def check(self, headers: Mapping[str, str], port: int | None, needed: Level, *, limited: bool = False) -> str:
        """The caller's name, "" for nobody in particular.

        Raises Unauthorized, Forbidden, or RateLimited if the request is `limited`; it counts as one image.
        """
        if needed == Level.OPEN:
            return ""
        on_admin_port = self.admin_port is not None and port == self.admin_port
        if needed == Level.ADMIN and not on_admin_port:
            if self.admin_port is not None:
                raise Forbidden("this is open on the admin port alone")
            if not self._admin_keys:
                raise Forbidden("this is closed: the service has neither admin keys nor an admin port")
        level, name = self._caller(headers, on_admin_port)
        if level < needed:
            if name:
                raise Forbidden("this needs an admin key")
            kind = "an admin key" if needed == Level.ADMIN else "a key"
            raise Unauthorized(f"send {kind} that is known as Authorization: Bearer KEY, or as X-API-Key: KEY")
        if limited and self._limit is not None and name and level == Level.KEY:
            self._limit.take(name)
        return name

    def charge(self, headers: Mapping[str, str], port: int | None, images: int) -> None:
        """Count the images of a request that `check` let in as a `limited` one, which counted one of them.

        Raises RateLimited, or TooLarge for more than the rate ever allows.
        """
        level, name = self._caller(headers, self.admin_port is not None and port == self.admin_port)
        if self._limit is not None and name and level == Level.KEY:
            self._limit.take(name, images, paid=1)

    def makes_admins(self, port: int | None) -> bool:
        """Whether who comes in by `port` is an admin without a key."""
        return self.admin_port is not None and port == self.admin_port and not self._admin_keys

    def _caller(self, headers: Mapping[str, str], on_admin_port: bool) -> tuple[Level, str]:
        key = _sent(headers)
        if admin := self._admin_keys.owner(key):
            return Level.ADMIN, admin
        name = self.keys.owner(key) or ""
        if on_admin_port and not self._admin_keys:
            return Level.ADMIN, name
        return (Level.KEY if name or not self.keys else Level.OPEN), name


def _sent(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _parse(given: Iterable[str]) -> dict[bytes, str]:
    keys = {}
    for number, line in enumerate(given, start=1):
        try:
            digest, name = parse_key(line)
        except ValueError as err:
            raise BadParameter(f"key {number} of the setting {err}") from None
        keys[digest] = name
    return keys
