"""Files of keys: read again and again by a thread of their own, so that no disk holds up the service."""

import codecs
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from app.errors import BadParameter
from bundle.permissions import unreadable

log = logging.getLogger(__name__)

WANTED = "NAME:KEY or KEY, of 8 characters or more without spaces"

_LOOK_SECONDS = 0.2
_MOST_CHANGES = 4  # looks in a row that differ, before what is there is taken: within a second
_COMPLAINT_SECONDS = 60
_HUNG_SECONDS = 10  # since the last look
_MOST_BYTES = 1 << 20
_MOST_SHOWN = 5  # faults of lines
# A colon ends a name: a key that is too short is not taken for a long one without a name.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,40}):(?P<key>[\x21-\x7e]{8,512})|(?P<alone>[\x21-\x39\x3b-\x7e]{8,512})")
_COMMENT = re.compile(r"(^|\s)#.*")
_OTHER_FORMS = {  # that would pass for keys which nobody sends
    re.compile(r"(\S*:)?(\$(apr1|1|2[abxy]?|5|6|y|argon2\w*)\$|\{(SHA|SSHA|CRYPT)\})\S+"): (
        "a hash; keys stand in it as they are sent"
    ),
    re.compile(r"(export\s+)?([A-Z][A-Z0-9_]*|[a-z]{3,}[a-z0-9]*(_[a-z0-9]+)*)=[^=].*"): (
        "a line of an env file; the key stands alone, or as NAME:KEY"
    ),
    re.compile(r"""[^"']\S*,|["'].*["'],|[\[{].*[\]}],?"""): (
        "a part of a list or of a JSON document; write one key a line"
    ),
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell's > writes


def parse_key(line: str) -> tuple[bytes, str]:
    """The digest of the key in `line`, and its name. ValueError says what is wrong, and never shows the line."""
    for form, what in _OTHER_FORMS.items():
        if form.fullmatch(line):
            raise ValueError(f"is {what}")
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"is not {WANTED}")
    digest = key_digest(match["key"] or match["alone"])
    return digest, match["name"] or f"key-{digest.hex()[:8]}"


def key_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class KeyFile:
    """The keys in the file at `path`, one a line as parse_key has them; '#' at its start or after a space is a comment.

    BadParameter if it cannot be read now, or a line is no key. Later `look` reads it again, and `watch` does so all the
    time: what the file says counts within a second. A line that is no key then lets nobody in, the others count; a
    file that cannot be read leaves the keys as they were. `ok` is false and the log has an error each minute while
    either is so. Not thread-safe but for `keys` and `ok`: after `watch` its thread alone looks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[bytes, str] = {}
        self._faults: list[str] = []  # of its lines
        self._unread = ""  # why it cannot be read
        self._failures = 0  # looks in a row
        self._changes = 0  # looks since two in a row saw the same
        self._taken = self._seen = b""  # digests of what the file held
        self._looked = time.monotonic()
        self._complained = -float("inf")
        self._watching: threading.Event | None = None
        try:
            self._take(_read(path))
        except (OSError, ValueError) as err:
            raise BadParameter(f"cannot take the keys: {_why(path, err)}") from None
        if self._faults:
            raise BadParameter("; ".join(self._faults[:_MOST_SHOWN]))

    @property
    def keys(self) -> dict[bytes, str]:
        """The names of the keys by their digests."""
        if self._hung():
            self._complain(f"{self._path} has not been readable for {_HUNG_SECONDS} s: its disk does not answer")
        return self._keys

    @property
    def ok(self) -> bool:
        """Whether the keys are what the file says."""
        return not (self._unread or self._faults or self._hung())

    def watch(self) -> None:
        """Look all the time, in a thread that does not keep the process from ending."""
        self._watching = threading.Event()
        threading.Thread(target=self._watch, args=[self._watching], name=f"keys {self._path.name}", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.set()
            self._watching = None

    def look(self) -> None:
        """Take what the file says if it has changed, once two looks have seen the same: it is not being written.

        A file that is written all the time is taken as it is at the fourth look: a revocation waits no longer.
        """
        try:
            content = _read(self._path)
        except (OSError, ValueError) as err:
            self._failures += 1
            self._changes += 1
            if self._failures > 1:  # an editor may be putting another file in its place
                self._unread = f"the keys stay as they were: {_why(self._path, err)}"
        else:
            digest = hashlib.sha256(content).digest()
            self._changes = 0 if digest == self._seen else self._changes + 1
            if not 0 < self._changes < _MOST_CHANGES:
                self._unread = ""
                self._changes = 0
                if digest != self._taken:
                    self._take(content)
            self._failures = 0
            self._seen = digest
        self._looked = time.monotonic()
        if fault := self._unread or "; ".join(self._faults[:_MOST_SHOWN]):
            self._complain(fault)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # a thread that ends would end revocations
                log.exception("%s cannot be looked at", self._path)

    def _take(self, content: bytes) -> None:
        keys: dict[bytes, str] = {}
        faults = []
        for number, line in _lines(content):
            try:
                digest, name = parse_key(line)
            except ValueError as err:
                faults.append(f"line {number} of {self._path} {err}")
                continue
            if keys.setdefault(digest, name) != name:
                log.warning("line %d of %s has a key again, which stays that of %r", number, self._path, keys[digest])
        self._keys, self._faults = keys, faults
        self._taken = self._seen = hashlib.sha256(content).digest()
        self._complained = -float("inf")
        log.info("%d keys read from %s", len(keys), self._path)
        if not keys:
            log.warning("%s has no keys: it lets nobody in", self._path)

    def _hung(self) -> bool:
        return self._watching is not None and time.monotonic() - self._looked > _HUNG_SECONDS

    def _complain(self, fault: str) -> None:
        if time.monotonic() - self._complained >= _COMPLAINT_SECONDS:
            self._complained = time.monotonic()
            log.error("%s", fault)


def _read(path: Path) -> bytes:
    """What the file at `path` holds; never waits for a pipe. OSError, or ValueError for what is no file of keys."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        if stat.S_ISDIR(found.st_mode):
            raise ValueError("is a folder; Docker makes one where the file that is to be mounted is missing")
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is no regular file, and is to be read again and again")
        with os.fdopen(file, "rb", closefd=False) as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"has more than {_MOST_BYTES} bytes")
        return content
    finally:
        os.close(file)


def _why(path: Path, err: OSError | ValueError) -> str:
    return unreadable(path, err) if isinstance(err, OSError) else f"{path} {err}"


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """The lines that may hold keys, with their numbers."""
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    for number, line in enumerate(content.decode(encoding, errors="replace").splitlines(), start=1):
        key = _COMMENT.sub("", line).strip()
        if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'":
            key = key[1:-1]
        if key:
            yield number, key
