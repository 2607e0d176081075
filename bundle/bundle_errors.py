"""Errors of bundles, and the base of every error whose message is written for its reader."""

from typing import TYPE_CHECKING

from model.pydantic_errors import describe_error, error_location

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
    """What is wrong first, after the path of its key: `weights.id is missing`."""
    first = err.errors()[0]
    return f"{error_location(first, 'the file')} {describe_error(first)}"
