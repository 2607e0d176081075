"""Files by path or URL: the local disk by Python, object stores by Arrow, everything else by fsspec."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.errors import BadParameter, NoImage, TooLarge
from model.files.bad_files import BadFile
from model.files.folders import check_regular

_URL = re.compile(r"(?!file:)([a-z][a-z0-9+.-]+)://([^/]*)/?(.*)", re.IGNORECASE | re.DOTALL)
_OF_ARROW = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"}
_ATTEMPTS = 3


class SourceUnavailable(OSError):
    """A source cannot be reached, for a reason that is not one of its files: no network, no credentials."""


def is_remote(address: str) -> bool:
    """Whether `address` is a URL of something else than a local file."""
    return bool(_URL.match(address))


def local_path(address: str, base: str) -> Path:
    """The path of a local file, which is relative to `base`."""
    return Path(base, address.removeprefix("file://"))


def file_system(address: str, base: str = "") -> tuple[Any, str]:
    """The pyarrow file system of `address`, and the path there. BadParameter if there is none for its scheme."""
    from pyarrow import fs  # here, since it is optional

    url = _URL.match(address)
    if url is None:
        return fs.LocalFileSystem(), os.fspath(local_path(address, base).absolute())
    scheme, place, rest = url.groups()
    try:
        if scheme.lower() in _OF_ARROW:
            found, root = _object_store(f"{scheme}://{place}")
            return found, f"{root.rstrip('/')}/{rest}".rstrip("/")
        import fsspec

        of_fsspec, path = fsspec.core.url_to_fs(address)
        return fs.PyFileSystem(fs.FSSpecHandler(of_fsspec)), path
    except (ImportError, ValueError, NotImplementedError) as err:
        raise BadParameter(f"{address} cannot be opened: {err}") from err


def read_image(address: str, base: str, limit: int) -> bytes:
    """The bytes of an image file.

    Raises TooLarge over `limit` bytes, NoImage if this file cannot be read, and SourceUnavailable if others could not
    be read either.
    """
    if "\0" in address:
        raise NoImage("the address has a NUL character")
    if url := _URL.match(address):
        if not url[3] and url[1].lower() in _OF_ARROW:
            raise NoImage(f"{address} names no file")
        return _read_remote(address, limit)
    path = local_path(address, base)
    try:
        check_regular(path)
        with path.open("rb") as file:
            check_size(os.fstat(file.fileno()).st_size, limit)
            return file.read()
    except OSError as err:
        raise NoImage(f"the file cannot be read: {err.strerror or err}") from err
    except BadFile as err:
        raise NoImage(f"the file cannot be read: {err}") from err


def check_size(size: int | None, limit: int) -> None:
    """TooLarge if `size` is known and over `limit` bytes."""
    if size is not None and size > limit:
        raise TooLarge(f"the file is over the limit of {limit:,} bytes")


@contextmanager
def opening(address: str) -> Iterator[None]:
    """Raise BadParameter for what reading a list, a folder or an archive at `address` raises."""
    try:
        yield
    except FileNotFoundError as err:
        raise BadParameter(f"there is no {address}") from err
    except (OSError, ValueError) as err:  # Arrow's errors are such
        raise BadParameter(f"{address} cannot be read: {err}") from err


@lru_cache(maxsize=64)
def _object_store(place: str) -> tuple[Any, str]:
    from pyarrow import fs

    found: tuple[Any, str] = fs.FileSystem.from_uri(place)
    return found


def _read_remote(address: str, limit: int) -> bytes:
    try:
        files, path = file_system(address)
    except BadParameter as err:  # one line of a list
        raise NoImage(str(err)) from err
    except OSError as err:
        raise SourceUnavailable(f"{address} cannot be read: {err}") from err
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with files.open_input_file(path) as file:
                check_size(file.size(), limit)
                content: bytes = file.read(limit + 1)
                check_size(len(content), limit)
                return content
        except (FileNotFoundError, IsADirectoryError) as err:
            raise NoImage(f"the file cannot be read: {os.strerror(err.errno) if err.errno else 'not found'}") from err
        except TooLarge:
            raise
        except ValueError as err:  # of the address, as Arrow and fsspec raise it
            raise NoImage(f"the file cannot be read: {err}") from err
        except Exception as err:  # of fsspec's file systems each has errors of its own
            if attempt < _ATTEMPTS:
                time.sleep(attempt)
            elif address.lower().startswith("http"):  # each address of a list may have a server of its own
                raise NoImage(f"the file cannot be read: {err}") from err
            else:
                raise SourceUnavailable(f"{address} cannot be read: {err}") from err
    raise AssertionError("unreachable")
