"""What a client's Accept header prefers (RFC 9110, 12.5.1)."""

import re

_WEIGHT = re.compile(r"[01](\.\d{0,3})?")


def accepted_types(header: str) -> dict[str, float]:
    """The media ranges of an Accept header in small letters, with their weights; 0 for a weight that is none."""
    return dict(_media_range(part) for part in header.lower().split(","))


def _media_range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    for name, _, value in (parameter.partition("=") for parameter in parameters):
        if name.strip() == "q":
            return kind, float(value) if _WEIGHT.fullmatch(value.strip()) else 0
    return kind, 1
