"""Who may do what: API keys, admin keys, and how often."""

import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from app.errors import BadParameter, Forbidden, RateLimited, Unauthorized

log = logging.getLogger(__name__)

# A colon ends a name: a key that is too short is not taken for a long one without a name.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,40}):(?P<key>[\x21-\x7e]{8,512})|(?P<alone>[\x21-\x39\x3b-\x7e]{8,512})")
_COMMENT = re.compile(r"(^|\s)#.*")


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
    """At most so many requests of one key in a moving window, such as "100/minute"; BadParameter if it is not that."""

    def __init__(self, limit: str) -> None:
        # Here, since most services have no limit, and it takes a tenth of a second of each start.
        from limits import parse
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import MovingWindowRateLimiter

        try:
            self._item = parse(limit)
        except ValueError as err:
            raise BadParameter(f"the rate limit {limit!r} is not like 100/minute") from err
        if self._item.amount < 1:
            raise BadParameter(f"a rate limit of {limit} would let nobody in; it is 1 or more")
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def take(self, name: str) -> None:
        """Count a request of the key called `name`; RateLimited if it has had its share."""
        if await self._limiter.hit(self._item, name):
            return
        window = await self._limiter.get_window_stats(self._item, name)
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        raise RateLimited(f"the limit of {self._item} for each key is reached", retry_after=seconds)


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

        Raises Unauthorized, Forbidden, or RateLimited if the request is `limited`.
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
            await self._limit.take(name)
        return name

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
