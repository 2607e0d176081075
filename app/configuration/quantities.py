"""Reads numbers as people write them: 1e7, 10MB, 256Mi, 1m30s. Other text is returned unchanged."""

import re
from decimal import Decimal

_NUMBER = r"\d[\d_]*(\.\d+)?"
_WHOLE = re.compile(rf"\+?{_NUMBER}(e\+?\d{{1,2}})?", re.IGNORECASE)
_SIZE = re.compile(rf"(?P<number>{_NUMBER}) ?(?P<unit>[kKMGT]i?B?|[kmgt]i?b|B)")
_DURATION = re.compile(rf"(?P<number>{_NUMBER}) ?(?P<unit>ms|s|min|m|h|d) ?")
_UNIT_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def whole(text: str) -> int | str:
    """A whole number, also written as 10_000_000, 1e7 or 8.0."""
    if not _WHOLE.fullmatch(text):
        return text
    number = Decimal(text)
    return int(number) if number == int(number) else text


def size(text: str) -> int | str:
    """Bytes: a whole number, or one with kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).

    The B may be missing after a capital: Kubernetes writes 256Mi. A single small letter is not accepted: "m" is a
    thousandth in Kubernetes and 1024 * 1024 in Docker.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return whole(text)
    unit = match["unit"].lower()
    number = Decimal(match["number"]) * (1024 if "i" in unit else 1000) ** _UNIT_POWERS[unit[0]]
    return int(number) if number == int(number) else text


def seconds(text: str) -> float | str:
    """Seconds: a number, or one with ms, s, m, min, h or d, or several of these as in 1m30s."""
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return text
    return sum(float(part["number"]) * _UNIT_SECONDS[part["unit"]] for part in parts)
