"""The errors of files that give no pixels."""


class BadFile(ValueError):
    """A file that gives no pixels; the message says what is wrong, and what to send instead."""


class UnknownFormat(BadFile):
    """The bytes are not of a supported format."""


class TooManyPixels(BadFile):
    """The image has more pixels than the limit."""


class Damaged(BadFile):
    """An image of a known format that is damaged, cut off, or of a kind that is not supported."""
