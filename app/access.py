"""Who may do what: API keys, admin keys, and how often."""

import hashlib
import hmac
import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from app.errors import BadParameter, Forbidden, RateLimited, TooLarge, Unauthorized

log = logging.getLogger(__name__)

# A colon ends a name: a key that is too short is not taken for a long one without a name.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,40}):(?P<key>[\x21-\x7e]{8,512})|(?P<alone>[\x21-\x39\x3b-\x7e]{8,512})")
_COMMENT = re.compile(r"(^|\s)#.*")


_RATE = re.compile(r"(?P<most>\d{1,12})/(?P<window>second|minute|hour|day)")
_WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}  # seconds


class Level(IntEnum):
    """What a caller may do; each level includes those before it."""

    OPEN = 0
    KEY = 1
    ADMIN = 2


class Keys:
    """Keys by their names: those `given`, and those in `file`, which is read again when it changes.

    One is written NAME:KEY or KEY, of 8 characters or more, without a colon if it has no name; in the file one a line,
    '#' at its start or after a space begins a comment. BadParameter if one cannot be read now; a file that cannot be
    read later leaves the keys as they were. What it says counts after a second at most.
    """

    def __init__(self, given: Iterable[str], file: Path | None) -> None:
        self._given = _parse(given, "the setting")
        self._file = file
        self._from_file: dict[bytes, str] = {}
        self._seen: tuple[int, ...] | None = None
        self._checked = -math.inf
        self._fault = ""
        if file is not None:
            try:
                self._read(file)
            except OSError as err:
                raise BadParameter(f"cannot read the keys in {file}: {err.strerror}") from err

    def __bool__(self) -> bool:
        """Whether keys are asked for at all; an empty file asks for one that nobody has."""
        return bool(self._given) or self._file is not None

    def owner(self, key: str) -> str | None:
        """The name of `key`, or None; takes the same time whichever key it is or is not."""
        self._refresh()
        digest = _digest(key)
        found = None
        for known, name in (self._given | self._from_file).items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _refresh(self) -> None:
        if self._file is None or time.monotonic() - self._checked < 1:
            return
        try:
            self._read(self._file)
        except (OSError, BadParameter) as err:
            fault = str(err)
            if fault != self._fault:  # said once, not every second
                log.error("the keys stay as they are: %s", fault)
        else:
            fault = ""
        self._fault = fault

    def _read(self, file: Path) -> None:
        self._checked = time.monotonic()
        status = file.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return
        text = file.read_text("utf-8", errors="replace")  # in a comment they do no harm
        lines = (_COMMENT.sub("", line).strip() for line in text.splitlines())
        self._from_file = _parse((line for line in lines if line), str(file))
        self._seen = seen
        log.info("%d keys read from %s", len(self._from_file), file)


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


class Access:
    """Decides what a request may do by its key and the port that it came in by.

    The admin port alone makes an admin where there are no admin keys; where there is one, nothing admin happens on
    another port.
    """

    def __init__(self, keys: Keys, admin_keys: Keys, admin_port: int | None, limit: RateLimit | None) -> None:
        self.keys = keys
        self._admin_keys = admin_keys
        self.admin_port = admin_port
        self._limit = limit

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


def _parse(lines: Iterable[str], where: str) -> dict[bytes, str]:
    keys = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:  # the line itself may be a key: it is not shown
            raise BadParameter(
                f"key {number} of {where} is not NAME:KEY or KEY, of 8 characters or more without spaces"
            )
        digest = _digest(match["key"] or match["alone"])
        keys[digest] = match["name"] or f"key-{digest.hex()[:8]}"
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
