"""Which characters of a label or a name would change how the text around them is shown; imports nothing."""

import unicodedata

_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # Unicode's: control, half of a surrogate pair, line and paragraph separator
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_INVISIBLE = "\u061c\u200b\u200e\u200f\u2060\ufeff" + "".join(filter(str.isspace, map(chr, range(0x3001))))


def controls(character: str) -> bool:
    """Whether `character` moves a terminal's cursor, ends a line of a log, or turns round the text beside it.

    Joiners are none of these: Persian words and emoji are written with them.
    """
    return unicodedata.category(character) in _CATEGORIES or character in _BIDIRECTIONAL


def trimmed(text: str) -> str:
    """`text` without white space, marks of direction and joiners without width at its ends, where editors leave them.

    Marks that override a direction stay: no name has them.
    """
    return text.strip(_INVISIBLE)
