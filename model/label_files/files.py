"""A label file's bytes to text, and the text to what its form says of each class."""

import ast
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import yaml

from model.label_files.content import WANTED, BadLabels, Entry, of_content
from model.label_files.lines import of_lines, of_table

LARGEST = 16 << 20  # bytes
_LARGEST_LITERAL = 4 << 20  # characters of Python, whose syntax tree takes a hundred times as much

_VALUE = r"(?:(-?\d+)|\"([^\"\n]*)\"|'([^'\n]*)')"
_FIELD = re.compile(rf"\s*(\w+)\s*:\s*{_VALUE}[\s,;]*")
_ITEM = re.compile(r"\s*item\s*:?\s*\{([^{}]*)\}")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*\s*=\s*[\[{(]")
_NESTED = "is nested too deeply to be a list of labels"

_BINARY = {
    b"\x80": "a pickle, which is not read since that could run code",
    b"(lp0": "a pickle, which is not read since that could run code",
    b"(dp0": "a pickle, which is not read since that could run code",
    b"\x93NUMPY": "a NumPy file",
    b"PK\x03\x04": "a ZIP archive (a spreadsheet, a checkpoint or NumPy's)",
    b"MATLAB 5": "a MATLAB file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def read_label_file(path: Path) -> list[Entry]:
    """What the file at `path` says of each class, in index order; BadLabels if that cannot be told.

    Known are: a name, "index name", "name index", "wnid name" or a wnid a line; CSV and TSV; JSON, YAML and what Python
    prints, with a list of names or objects, or an object from index to name, from index to [wnid, name] or from name
    to index, alone or under the key that Hugging Face, Ultralytics, COCO or torchvision give it; TensorFlow's label
    maps. Text is UTF-8, or UTF-16 with its mark.
    """
    text = _text(path)
    beginning, suffix = text.lstrip(), path.suffix.lower()
    if beginning.startswith("<"):
        raise BadLabels(f"{path.name} is HTML or XML; {WANTED}")
    if suffix in (".yaml", ".yml"):
        return of_content(_yaml(text, path.name), path.name)
    if suffix == ".json" or beginning[0] in "{[":
        return of_content(_literal(text, path.name, suffix), path.name)
    if suffix == ".pbtxt" or _ITEM.match(text):
        return of_content(_label_map(text, path.name), path.name)
    if suffix == ".py" or _ASSIGNED.match(beginning):
        return of_content(_assigned(text, path.name), path.name)
    if re.search(r"^names:", text, re.MULTILINE):
        return of_content(_yaml(text, path.name), path.name)
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text.rstrip())]
    return of_table(lines, path.name, named=suffix in (".csv", ".tsv")) or of_lines(lines, path.name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as err:
        raise BadLabels(f"cannot read {path}: {err.strerror}") from err
    if len(raw) > LARGEST:
        raise BadLabels(f"{path.name} has more than {LARGEST >> 20} MiB, which is no list of labels; {WANTED}")
    for magic, kind in _BINARY.items():
        if raw.startswith(magic):
            raise BadLabels(f"{path.name} is {kind}; {WANTED}")
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as err:
        line = 1 + raw.count(b"\n", 0, err.start)
        raise BadLabels(
            f"{path.name} is not UTF-8 text: line {line} has a byte 0x{raw[err.start]:02x}, as files in Windows-1252, "
            f"Latin-1 and other encodings do, and binary ones; save it as UTF-8: {WANTED}"
        ) from err
    if "\0" in text:
        raise BadLabels(f"{path.name} is a binary file, or UTF-16 without its mark; save it as UTF-8: {WANTED}")
    if not text.strip():
        raise BadLabels(f"{path.name} is empty; {WANTED}")
    return text


def _literal(text: str, origin: str, suffix: str) -> object:
    """JSON, or what Python prints of a list or a dictionary."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, origin))
    except json.JSONDecodeError as err:
        try:
            return _evaluated(text)
        except (RecursionError, MemoryError):
            raise BadLabels(f"{origin} {_NESTED}") from err
        except (ValueError, TypeError, SyntaxError):
            other = "" if suffix == ".json" else ", nor a list or a dictionary of Python"
            raise BadLabels(f"{origin} is not JSON: line {err.lineno}, column {err.colno}{other}; {WANTED}") from err
    except RecursionError as err:
        raise BadLabels(f"{origin} {_NESTED}") from err


def _object(pairs: Sequence[tuple[str, object]], origin: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise BadLabels(f"{origin} has {name[:40]!r} twice in one object; {WANTED}")
        found[name] = value
    return found


def _assigned(text: str, origin: str) -> object:
    """The list or dictionary that a file of Python gives a name, and nothing else."""
    try:
        return _evaluated(text)
    except (ValueError, TypeError, SyntaxError) as err:
        raise BadLabels(f"{origin} is code, and more than a list or a dictionary of names; {WANTED}") from err
    except (RecursionError, MemoryError) as err:
        raise BadLabels(f"{origin} {_NESTED}") from err


def _evaluated(text: str) -> object:
    """The literal that `text` is, or assigns; nothing is run. ValueError if it is more, or has a key twice."""
    if len(text) > _LARGEST_LITERAL:
        raise ValueError("too large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in names
        statements = ast.parse(text.strip()).body
        if len(statements) != 1 or not isinstance(statements[0], ast.Expr | ast.Assign):
            raise ValueError("more than a literal")
        content = statements[0].value
        found: object = ast.literal_eval(content)
    if isinstance(content, ast.Dict) and isinstance(found, dict) and len(found) < len(content.keys):
        raise ValueError("a key is there twice")
    return found


def _yaml(text: str, origin: str) -> object:
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506, it makes strings, lists and dictionaries only
    except yaml.YAMLError as err:
        raise BadLabels(f"{origin} is not YAML ({' '.join(str(err).split())[:100]}); {WANTED}") from err
    except RecursionError as err:
        raise BadLabels(f"{origin} {_NESTED}") from err


def _label_map(text: str, origin: str) -> list[object]:
    """A label map of TensorFlow: `item { id: 1 name: 'cat' }`, one after another."""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    items = _ITEM.findall(text)
    if _ITEM.sub("", text).strip() or any(_FIELD.sub("", item).strip() for item in items):
        raise BadLabels(f"{origin} is a label map with more than numbers and names in its items; {WANTED}")
    return [
        {key: int(number) if number else double or single for key, number, double, single in _FIELD.findall(item)}
        for item in items
    ]
