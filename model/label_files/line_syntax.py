"""What lines look like that are no names: counts, enumerations, paths, code and lists."""

import re
from collections.abc import Sequence

from model.label_files.structured_labels import AS_THEY_ARE, WANTED, BadLabels

_NUMBER = r"[-+]?(?:0x[0-9a-fA-F]{1,8}|\d{1,9}(?:[.,]\d{1,9})?)%?"
_NUMBER_FIRST = re.compile(rf"({_NUMBER})[\s:;=|]\s*(\S.*)")
_NUMBER_LAST = re.compile(rf"(.*?)\s?[:,;=|\t(\[{{<#][ #]?({_NUMBER})[)\]}}>]?")
_MARKED = re.compile(r"\(?(\w{1,4})[.)]\s+\S.*")  # a) cat
_MARKS = (["a", "b", "c"], ["i", "ii", "iii"])
_PATH = re.compile(r"(?:\.{1,2}|[A-Za-z]:)[\\/].*|.*[\\/]")
_OPENED = re.compile(r"[\[({]\s*(?:[\"'\[({]|$)")
_CLOSED = re.compile(r"[\])}][;,]?$")
_BRACKETED = re.compile(r"[\[{<](?=[^\[\]{}<>]*[^\W\d])[^\[\]{}<>\"',:=]+[\]}>]")
_SINGLE = (
    (re.compile(r"[#/-]{1,6}\s|//"), "is a comment or a heading"),
    (re.compile(r".*[,;|\t]"), "is a list: several names are in one line"),
    (re.compile(r"[\"'].*[\"']\s+[\"']"), "is a list: several names are in one line"),
    (re.compile(r"[\"']?\w+[\"']?\s*[:=]"), "is a key and its value"),
    (re.compile(r"[`*].*[`*]$"), "is Markdown"),
)


def check_names(lines: Sequence[str], origin: str) -> None:
    """BadLabels for lines all of which have a form that names do not have, and for one line that is a list or code.

    A number tells names apart (20 km/h, 30 km/h), or is the year of a model; else it is a count or an index.
    """
    if not lines:
        return
    seen = _form(lines)
    if seen is not None:
        raise BadLabels(f"{origin}: {seen} ({lines[0][:60]!r}); {WANTED}. {AS_THEY_ARE}")


def is_markup(text: str) -> bool:
    """Whether a text that begins with `<` is HTML or XML, and not names of which the first is `<unk>` or `<5 mm`."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return (
        re.match(r"<(?:[!?]|html\b)", text, re.IGNORECASE) is not None
        or "</" in text
        or "/>" in text
        or all(line.startswith("<") for line in lines)
    )


def are_all_in_brackets(text: str) -> bool:
    return all(_BRACKETED.fullmatch(line) for line in map(str.strip, text.splitlines()) if line)


def is_name_in_brackets(text: str) -> bool:
    """Whether a text that begins as JSON does is a name a line, of which the first is `[other]` or `{x}`.

    A section of an INI file is none: a line below it has a value.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    bracketed = [bool(_BRACKETED.fullmatch(line)) for line in lines]
    return bracketed[0] and not all(bracketed) and not any("=" in line or _CLOSED.search(line) for line in _rest(lines))


def _rest(lines: Sequence[str]) -> list[str]:
    return [line for line in lines[1:] if not _BRACKETED.fullmatch(line)]


def _form(lines: Sequence[str]) -> str | None:
    if _OPENED.search(lines[0]) and _CLOSED.search(lines[-1]):
        return "this is code, or what a program prints of a list"
    if all(_PATH.fullmatch(line) for line in lines):
        return "the lines are paths of files or folders"
    if all(re.match(r"(?:#{1,6}|//)\s", line) for line in lines):
        return "the lines are comments or headings"
    if _enumerated(lines):
        return "the lines are enumerated"
    first = [_NUMBER_FIRST.fullmatch(line) for line in lines]
    if _are_counts([(match[2], match[1]) for match in first if match], len(lines)):
        return "the lines begin with numbers that are not the indices 0, 1, 2 and so on, but counts or others"
    last = [_NUMBER_LAST.fullmatch(line) for line in lines]
    if _are_counts([(match[1], match[2]) for match in last if match], len(lines)):
        return "the lines end with numbers, as counts and indices do"
    if len(lines) == 1:
        return next((f"the only line {what}" for form, what in _SINGLE if form.match(lines[0])), None)
    return None


def _are_counts(found: Sequence[tuple[str, str]], lines: int) -> bool:
    """Whether all lines have a text and a number, and the number is not part of the name."""
    texts, numbers = [text.casefold() for text, _ in found], {number for _, number in found}
    if len(found) < lines or len(set(texts)) < len(texts) or any(not text or text[-1].isdigit() for text in texts):
        return False  # 20 km/h, 30 km/h
    years = all(re.fullmatch(r"(?:19|20)\d\d", number) for number in numbers)
    return not (years and len(numbers) > 1)  # 2012 Audi A4, 1998 Nissan


def _enumerated(lines: Sequence[str]) -> bool:
    found = [_MARKED.fullmatch(line) for line in lines]
    marks = [match[1].casefold() for match in found if match]
    return len(set(marks)) == len(lines) and marks[:3] in [first[: len(marks)] for first in _MARKS]
