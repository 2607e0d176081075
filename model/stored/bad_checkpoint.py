"""The error of files that are no weights of the network, and text from files made fit for a terminal."""

from collections.abc import Sequence

_MAX_MESSAGE_LETTERS = 1500
_MAX_NAMED_KEYS = 6


class BadCheckpoint(ValueError):
    """A file that holds no weights, or weights of another network; the message says what would help."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` for a terminal: names come from the file."""
    shown = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: _MAX_MESSAGE_LETTERS + 1]
    )
    return shown if len(shown) <= _MAX_MESSAGE_LETTERS else shown[:_MAX_MESSAGE_LETTERS] + " …"


def listed(keys: Sequence[str], *, counted: bool = False) -> str:
    """The first of `keys`, and that there are others, or how many."""
    others = len(keys) - _MAX_NAMED_KEYS
    more = f" and {others} more" if counted else ", …"
    return ", ".join(keys[:_MAX_NAMED_KEYS]) + (more if others > 0 else "")
