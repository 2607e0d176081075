"""Lines and tables of labels to entries in index order."""

import csv
import re
from collections.abc import Sequence

from model.label_files.line_syntax import check_names
from model.label_files.structured_labels import (
    AS_THEY_ARE,
    INDICES,
    NAMES,
    SEPARATOR,
    WANTED,
    WNID,
    WNID_FIRST,
    WNIDS,
    BadLabels,
    ClassEntry,
    check_placeholders,
    folded,
    in_order,
    of_objects,
)

MAX_LINE_CHARACTERS = 2000  # characters in a line

_INDEX_FIRST = re.compile(rf"(\d{{1,9}})({SEPARATOR}|[.)]\s++|\s++-\s++|\s++)(\S.*+)")
_LAST_NUMBER = re.compile(r"(?<!\d)\d{1,9}$")
_LAST_SEPARATOR = re.compile(r"->$|=>$|[→:,;=|]$")
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1,?""")
_NUMBER_WITHIN = re.compile(r"(\D*)(\d{1,9})(?=.*\w).*")
_COMMENT = re.compile(r"(#|//)\s*\S")
_IMAGES = ("filename", "file_name", "file", "image", "image_id", "image_path", "image_name", "filepath", "path")


def of_lines(lines: Sequence[str], origin: str) -> list[ClassEntry]:
    """A name a line, or `0 tench`, `tench 0`, `n01440764 tench`, or a wnid; blank lines are entries without a name.

    Numbers are indices if every line has one and they are 0, 1, 2 and so on. BadLabels if they look like indices and
    are others, or lack on some lines.
    """
    long = next((number for number, line in enumerate(lines, start=1) if len(line) > MAX_LINE_CHARACTERS), None)
    if long is not None:
        raise BadLabels(
            f"{origin}: line {long} has more than {MAX_LINE_CHARACTERS} characters, which is not a name; {WANTED}"
        )
    plain = _unwrapped(lines, origin)
    filled = [line for line in plain if line]
    entries = _wnids(filled, origin) or _index_first(filled, origin) or _index_last(filled, origin)
    if entries is None:
        _check_unnumbered(filled, origin)
        check_names(filled, origin)
        check_placeholders(filled, origin)
        return [ClassEntry(line) for line in plain]
    if len(filled) < len(plain):
        raise BadLabels(f"{origin}: line {1 + plain.index('')} is blank")
    return entries


def of_table(lines: Sequence[str], origin: str, *, named: bool) -> list[ClassEntry] | None:
    """The rows of CSV or TSV, or None if it is none. `named`: whether the file is called so.

    BadLabels where columns are not known, by a header or by what is in them.
    """
    stated = re.fullmatch(r"sep=([;,|\t])", lines[0])  # for Excel
    lines = lines[1:] if stated and len(lines) > 1 else lines
    delimiter = stated[1] if stated else next((each for each in ("\t", ";", "|", ",") if each in lines[0]), ",")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        return None
    if named and rows[0] == ["", "0"] and len(rows) > 1:  # of a Series of pandas that has no name
        rows[0] = ["index", "name"]
    header = list(folded(dict.fromkeys(rows[0])))
    if len(header) > 1 and header[0] in _IMAGES:
        raise BadLabels(f"{origin} is a table of images ({lines[0][:60]!r}), not of classes; {WANTED}")
    if _is_header(header, named=named) and len(rows) > 1:
        odd = next((number for number, row in enumerate(rows, start=1) if len(row) != len(header)), None)
        if odd is not None:
            raise BadLabels(f"{origin}: line {odd} has not the {len(header)} columns of the header")
        return of_objects([dict(zip(header, row, strict=True)) for row in rows[1:]], origin)
    several = len(rows[0]) > 1 and all(len(row) == len(rows[0]) and row[-1] for row in rows)
    if several and (named or any('"' in line for line in lines)):
        joined = ["\t".join(row) for row in rows]
        entries = _wnids(joined, origin) or _index_first(joined, origin) or _index_last(joined, origin)
        if entries is None:
            raise BadLabels(
                f"{origin} has {len(rows[0])} columns and no header that is known here, such as 'index,name' or "
                f"'wnid,label', but {lines[0][:60]!r}; {WANTED}"
            )
        return entries
    if not named or several or not _single(rows):
        return None
    names = [row[0] if row else "" for row in rows]
    check_names([name for name in names if name], origin)
    return [ClassEntry(name) for name in names]


def _single(rows: Sequence[Sequence[str]]) -> bool:
    return all(len(row) <= 1 for row in rows)


def _is_header(cells: Sequence[str], *, named: bool) -> bool:
    """Whether `cells` name columns: all are known, or one of them is and the file is called a table."""
    known = [cell in NAMES or cell in WNIDS for cell in cells]
    if len(cells) == 1 or named:
        return named and any(known)
    return any(known) and all(cell in (*NAMES, *WNIDS, *INDICES) for cell in cells)


def _unwrapped(lines: Sequence[str], origin: str) -> list[str]:
    """The lines without quotation marks or a list's dashes, if all have them; BadLabels for what is left of a list."""
    quoted = [_QUOTED.fullmatch(line) for line in lines]
    if all(quoted):
        return [match[2].strip() for match in quoted if match]
    if all(re.match(r"[-*•]\s+\S", line) for line in lines):
        return [line[1:].strip() for line in lines]
    if len(lines) > 1 and all(line.endswith((",", ";")) for line in lines[:-1]):
        raise BadLabels(f"{origin}: the lines end with {lines[0][-1]!r}; {WANTED}")
    comments = [bool(_COMMENT.match(line)) for line in lines]
    if any(comments) and not all(comments):
        line = comments.index(True)
        raise BadLabels(f"{origin}: line {line + 1} is a comment ({lines[line][:40]!r}): remove it. {AS_THEY_ARE}")
    return list(lines)


def _wnids(lines: Sequence[str], origin: str) -> list[ClassEntry] | None:
    """Lines of a wnid, or of a wnid and a name; in the order of the lines."""
    if all(WNID.fullmatch(line) for line in lines):
        return [ClassEntry(None, wnid) for wnid in lines]
    found = [WNID_FIRST.fullmatch(line) for line in lines]
    if not any(found):
        return None
    if None in found:
        line = found.index(None)
        raise BadLabels(f"{origin}: line {line + 1} has no wnid and name, as others have, but {lines[line][:40]!r}")
    entries = [ClassEntry(match[2], match[1]) for match in found if match]
    numbered = [_INDEX_FIRST.fullmatch(match[2]) for match in found if match]
    if not all(numbered):
        return entries
    # n02119789 1 kit_fox: the development kit of ILSVRC counts its classes in another order than networks do.
    if [int(match[1]) for match in numbered if match] != list(range(len(lines))):
        raise BadLabels(
            f"{origin} has a number beside each wnid, as the development kit of ILSVRC has, which is not the index of "
            f"a network's class; {WANTED}"
        )
    return [ClassEntry(match[3], entry.wnid) for match, entry in zip(numbered, entries, strict=True) if match]


def _index_first(lines: Sequence[str], origin: str) -> list[ClassEntry] | None:
    """Lines such as `0 tench`, `0: tench` or `0,tench`, also with a wnid between."""
    found = [_INDEX_FIRST.fullmatch(line) for line in lines]
    numbers = [int(match[1]) if match else None for match in found]
    separated = all(match and match[2].strip(" ") for match in found)
    if None not in numbers and not separated and min(number or 0 for number in numbers) > 1:
        return None  # 20 km/h
    entries = _numbered(
        numbers, [ClassEntry(_unquoted(match[3])) if match else None for match in found], origin, "0 tench"
    )
    if entries is None:
        return None
    names = [str(entry.label) for entry in entries]
    if any(WNID.match(name) for name in names):
        return _wnids(names, origin)
    return entries


def _index_last(lines: Sequence[str], origin: str) -> list[ClassEntry] | None:
    """Lines such as `tench 0` or `tench,0`."""
    found = [_name_and_index(line) for line in lines]
    numbers = [parts[2] if parts else None for parts in found]
    words = [parts[0].casefold() for parts in found if parts]
    separated = all(parts and parts[1].strip(" ") for parts in found)
    if not separated:
        if len(set(words)) < len(words):
            return None  # digit 0, digit 1
        counted = {*range(len(lines))}, {*range(1, 1 + len(lines))}
        if None not in numbers and set(numbers) not in counted:
            return None  # Boeing 737
    return _numbered(
        numbers, [ClassEntry(_unquoted(parts[0])) if parts else None for parts in found], origin, "tench 0"
    )


def _name_and_index(line: str) -> tuple[str, str, int] | None:
    """The parts of `tench 0`: name, separator, index. Read from the end, so that a line of spaces is read once."""
    number = _LAST_NUMBER.search(line)
    if number is None:
        return None
    before = line[: number.start()]
    name = before.rstrip()
    if "\t" not in before[len(name) :] or _LAST_SEPARATOR.search(name):
        name = _LAST_SEPARATOR.sub("", name).rstrip()
    return (name, before[len(name) :], int(number[0])) if name and len(name) < len(before) else None


def _numbered(
    numbers: Sequence[int | None], names: Sequence[ClassEntry | None], origin: str, form: str
) -> list[ClassEntry] | None:
    """The names by their numbers, if all lines have one; None if the numbers are parts of names."""
    if None not in numbers:
        if len(set(numbers)) < len(numbers) and set(numbers) != set(range(len(set(numbers)))):
            return None  # 2012 Audi, 2012 BMW
        try:
            return in_order(numbers, [name for name in names if name], origin)
        except BadLabels as err:
            raise BadLabels(f"{err}. {AS_THEY_ARE}") from None
    counted = [number is not None and number - place in (0, 1) for place, number in enumerate(numbers)]
    if sum(counted) > 1 and 2 * sum(counted) >= len(numbers):
        line = numbers.index(None)
        raise BadLabels(f"{origin}: lines have an index ({form!r}), but line {line + 1} has none. {AS_THEY_ARE}")
    return None


def _check_unnumbered(lines: Sequence[str], origin: str) -> None:
    """BadLabels for lines that are counted in a form that is not known, such as `(0, 'tench')` or `class 0: tench`."""
    found = [match for line in lines if (match := _NUMBER_WITHIN.fullmatch(line))]
    from_zero = [int(match[2]) for match in found] == list(range(len(lines)))
    from_one = [int(match[2]) for match in found] == list(range(1, 1 + len(lines)))
    worded = all(match[1].strip() and match[1][0].isalpha() for match in found)  # stage 1 fire, stage 2 fire
    if len(lines) > 1 and (from_zero or (from_one and not worded)):
        raise BadLabels(f"{origin}: the lines are counted ({lines[0][:40]!r}); {WANTED}. {AS_THEY_ARE}")


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text)
    return match[2] if match else text
