"""Errors of bundles, and the base of every error whose message is written for its reader."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ExplainedError(Exception):
    """An error whose message may be shown to the client or user; `retry_after` is in seconds, if a retry may help."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadBundle(ExplainedError):
    """A bundle that is incomplete, or that differs from its manifest."""


class NotABundle(ExplainedError):
    """The place for a bundle, or for a plan in one, holds something else, which is not touched."""


def first_error(err: "ValidationError") -> str:
    """The first of pydantic's errors, after the path of the key: `weights.id: Field required`."""
    first = err.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the file"
    return f"{key}: {first['msg']}"
