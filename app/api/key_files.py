"""Key files: a thread reads them again and again, so that a slow disk does not delay the service."""

import codecs
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.errors import BadParameter
from bundle.permissions import unreadable

log = logging.getLogger(__name__)

KEY_FORMAT = "NAME:KEY or KEY, of 8 characters or more without spaces"

_POLL_SECONDS = 0.2
_MAX_CHANGING_POLLS = 4  # then a file that still changes is used as it is: within a second
_SECONDS_BETWEEN_ERRORS = 60
_HUNG_SECONDS = 10  # without a finished poll
_MAX_FILE_BYTES = 1 << 20
_MAX_LINES_SHOWN = 5
# A name ends at the colon: NAME:KEY with a key that is too short must not count as a long key without a name.
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,40}):(?P<key>[\x21-\x7e]{8,512})|(?P<alone>[\x21-\x39\x3b-\x7e]{8,512})")
_COMMENT = re.compile(r"(^|\s)#.*")
_MISTAKEN_FORMATS = {  # they match _LINE, but no client sends such a key
    re.compile(r"(\S*:)?(\$(apr1|1|2[abxy]?|5|6|y|argon2\w*)\$|\{(SHA|SSHA|CRYPT)\})\S+"): (
        "a hash; write the key as clients send it"
    ),
    re.compile(r"(export\s+)?([A-Z][A-Z0-9_]*|[a-z]{3,}[a-z0-9]*(_[a-z0-9]+)*)=[^=].*"): (
        "a line of an env file; write KEY or NAME:KEY"
    ),
    re.compile(r"""[^"']\S*,|["'].*["'],|[\[{].*[\]}],?"""): (
        "a line of a list or of a JSON document; write one key a line"
    ),
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell's > writes it


def parse_key(line: str) -> tuple[bytes, str]:
    """The digest of the key in `line`, and its name. ValueError says what is wrong and never shows the line."""
    for pattern, description in _MISTAKEN_FORMATS.items():
        if pattern.fullmatch(line):
            raise ValueError(f"is {description}")
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"is not {KEY_FORMAT}")
    digest = key_digest(match["key"] or match["alone"])
    return digest, match["name"] or f"key-{digest.hex()[:8]}"


def key_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class KeyFile:
    """The keys in the file at `path`, one a line as parse_key reads them; '#' starts a comment.

    BadParameter if the file or a line of it cannot be read at the start. Later `poll` reads it again, and `watch` polls
    in a thread: a change counts within a second. Then a line that is not a key is skipped and the others count, and a
    file that cannot be read leaves the keys as they were. `ok` is false and the log has an error each minute while
    either is so. Thread-safe are only `keys` and `ok`: after `watch` only its thread polls.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._keys: dict[bytes, str] = {}
        self._line_errors: list[str] = []
        self._read_error = ""
        self._failures = 0  # polls in a row that failed
        self._changes = 0  # polls since two in a row read the same
        self._used_digest = self._last_digest = b""  # of the content in use, and of the last poll's
        self._last_poll = self._clock()
        self._last_error = -float("inf")
        self._stop: threading.Event | None = None
        try:
            self._use(_read(path))
        except (OSError, ValueError) as err:
            raise BadParameter(f"cannot read the keys: {_describe(path, err)}") from None
        if self._line_errors:
            raise BadParameter("; ".join(self._line_errors[:_MAX_LINES_SHOWN]))

    @property
    def keys(self) -> dict[bytes, str]:
        """The names of the keys by their digests."""
        if self._hung():
            self._log_error(f"{self._path} could not be read for {_HUNG_SECONDS} s: its disk does not respond")
        return self._keys

    @property
    def ok(self) -> bool:
        """Whether the keys are what the file says."""
        return not (self._read_error or self._line_errors or self._hung())

    def watch(self) -> None:
        """Poll in a daemon thread, which does not keep the process from ending, until `close`."""
        self._stop = threading.Event()
        threading.Thread(target=self._watch, args=[self._stop], name=f"keys {self._path.name}", daemon=True).start()

    def close(self) -> None:
        """End the polling."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def poll(self) -> None:
        """Use the file's new content once two polls in a row have read the same: nobody is writing it.

        A file that changes at every poll is used as it is at the fourth, so that a revocation waits no longer.
        """
        try:
            content = _read(self._path)
        except (OSError, ValueError) as err:
            self._failures += 1
            self._changes += 1
            if self._failures > 1:  # at the first, an editor may be replacing the file
                self._read_error = f"the keys stay as they were: {_describe(self._path, err)}"
        else:
            digest = hashlib.sha256(content).digest()
            self._changes = 0 if digest == self._last_digest else self._changes + 1
            if not 0 < self._changes < _MAX_CHANGING_POLLS:
                self._read_error = ""
                self._changes = 0
                if digest != self._used_digest:
                    self._use(content)
            self._failures = 0
            self._last_digest = digest
        self._last_poll = self._clock()
        if error := self._read_error or "; ".join(self._line_errors[:_MAX_LINES_SHOWN]):
            self._log_error(error)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_POLL_SECONDS):
            try:
                self.poll()
            except Exception:  # without this thread no key could be revoked
                log.exception("%s cannot be polled", self._path)

    def _use(self, content: bytes) -> None:
        keys: dict[bytes, str] = {}
        errors = []
        for number, line in _lines(content):
            try:
                digest, name = parse_key(line)
            except ValueError as err:
                errors.append(f"line {number} of {self._path} {err}")
                continue
            if keys.setdefault(digest, name) != name:
                log.warning("line %d of %s repeats a key, which keeps the name %r", number, self._path, keys[digest])
        self._keys, self._line_errors = keys, errors
        self._used_digest = self._last_digest = hashlib.sha256(content).digest()
        self._last_error = -float("inf")
        log.info("%d keys read from %s", len(keys), self._path)
        if not keys:
            log.warning("%s has no keys: every request is refused", self._path)

    def _hung(self) -> bool:
        return self._stop is not None and self._clock() - self._last_poll > _HUNG_SECONDS

    def _log_error(self, error: str) -> None:
        if self._clock() - self._last_error >= _SECONDS_BETWEEN_ERRORS:
            self._last_error = self._clock()
            log.error("%s", error)


def _read(path: Path) -> bytes:
    """The content of the file at `path`; OSError, or ValueError for what is not a key file. Never waits for a pipe."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("is a folder; Docker creates one in place of a file to mount that does not exist")
        if not stat.S_ISREG(mode):
            raise ValueError("is not a regular file, so that it cannot be read repeatedly")
        with os.fdopen(file, "rb", closefd=False) as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ValueError(f"has more than {_MAX_FILE_BYTES} bytes")
        return content
    finally:
        os.close(file)


def _describe(path: Path, err: OSError | ValueError) -> str:
    return unreadable(path, err) if isinstance(err, OSError) else f"{path} {err}"


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """The lines that are neither empty nor comments, with their numbers; quotes around a line are removed."""
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    for number, line in enumerate(content.decode(encoding, errors="replace").splitlines(), start=1):
        key = _COMMENT.sub("", line).strip()
        if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'":
            key = key[1:-1]
        if key:
            yield number, key
