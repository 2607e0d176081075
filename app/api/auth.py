"""Access control: API keys, admin keys and the admin port."""

import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from app.api.key_files import KeyFile, key_digest, parse_key
from app.errors import BadParameter, Forbidden, Unauthorized

log = logging.getLogger(__name__)

# Counts images of a key; its arguments are those of RateLimit.take, in order.
TakeImages = Callable[[str, int, int], Awaitable[None]]


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


class AccessControl:
    """Decides by a request's key and port what it may do.

    Without admin keys the admin port itself grants admin access. Where there is an admin port, admin routes are closed
    on every other port.

    Args:
        keys: they allow to classify; without any, every caller may.
        admin_keys: they allow everything.
        admin_port: the number of the admin port; None if there is none.
        take: counts the images of an API key towards its rate limit; admin keys have none. None for no limit.
    """

    def __init__(self, keys: Keys, admin_keys: Keys, admin_port: int | None, take: TakeImages | None) -> None:
        self.keys = keys
        self._admin_keys = admin_keys
        self.admin_port = admin_port
        self._take = take
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

    def check(self, headers: Mapping[str, str], port: int | None, required: AccessLevel) -> str:
        """The caller's name, "" for a caller without a key. Raises Unauthorized or Forbidden."""
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
        return name

    async def charge(self, headers: Mapping[str, str], port: int | None, images: int = 1, *, paid: int = 0) -> None:
        """Count the `images` of a request that `check` accepted, `paid` of which were counted before.

        Raises RateLimited, or TooLarge for more than the rate ever allows.
        """
        if self._take is None:
            return
        level, name = self._caller(headers, self._is_admin_port(port))
        if name and level == AccessLevel.KEY:
            await self._take(name, images, paid)

    @property
    def rate_limited(self) -> bool:
        """Whether keys have a rate limit."""
        return self._take is not None

    def port_grants_admin(self, port: int | None) -> bool:
        """Whether a request to `port` has admin access without a key."""
        return self._is_admin_port(port) and not self._admin_keys

    def _is_admin_port(self, port: int | None) -> bool:
        return self.admin_port is not None and port == self.admin_port

    def _caller(self, headers: Mapping[str, str], on_admin_port: bool) -> tuple[AccessLevel, str]:
        if not self.keys and not self._admin_keys:
            return (AccessLevel.ADMIN if on_admin_port else AccessLevel.KEY), ""
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
