"""Why a file gives no pixels."""


class BadFile(ValueError):
    """A file that gives no pixels; the message says what was seen, and what would do."""


class UnknownFormat(BadFile):
    """The bytes are not of a format that is read here."""


class TooManyPixels(BadFile):
    """The image has more pixels than it may."""


class Damaged(BadFile):
    """An image of a known format that is damaged, cut off, or of a kind that is not supported."""
