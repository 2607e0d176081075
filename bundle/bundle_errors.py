"""Errors of bundles, and the base of every error whose message is written for its reader."""


class ExplainedError(Exception):
    """An error whose message may be shown to the client or user; `retry_after` is in seconds, if a retry may help."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadBundle(ExplainedError):
    """A bundle that is incomplete, or that differs from its manifest."""
