"""A label file's bytes to text, and the text to what its form says of each class."""

import re
from pathlib import Path

from model.control_characters import trimmed
from model.label_files.line_syntax import are_all_in_brackets, is_markup, is_name_in_brackets
from model.label_files.notations import assigned, is_label_map, json_or_python, of_label_map, of_yaml
from model.label_files.printed_code import is_printed
from model.label_files.structured_labels import AS_THEY_ARE, MAX_CLASSES, WANTED, BadLabels, ClassEntry, of_content
from model.label_files.text_labels import of_lines, of_table

MAX_LABEL_FILE_BYTES = 4 << 20  # bytes; ImageNet-21k's 21,841 names with their wnids take 1

_ASSIGNED = re.compile(r"[A-Za-z_]\w*\s*=\s*[\[{(]")

# A document of YAML, alone or at the top of Markdown, as the dataset cards of Hugging Face have it.
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)(?:^(?:---|\.\.\.)[ \t]*\r?$|\Z)", re.DOTALL | re.MULTILINE)

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


def read_label_file(path: Path) -> list[ClassEntry]:
    """What the file at `path` says of each class, in index order; BadLabels if that cannot be told.

    Known are: a name, "index name", "name index", "wnid name" or a wnid a line; CSV and TSV; JSON, YAML and what Python
    prints, with a list of names or objects, or an object from index to name, from index to [wnid, name] or from name
    to index, alone or under the key that Hugging Face, Ultralytics, COCO or torchvision give it; JSON Lines; JSON of
    pandas; the features of a dataset of Hugging Face; TensorFlow's label maps. Text is UTF-8, or UTF-16 with its mark.
    """
    text = _text(path)
    beginning, suffix = text.lstrip(), path.suffix.lower()
    if beginning.startswith("<") and is_markup(beginning):
        raise BadLabels(f"{path.name} is HTML or XML; {WANTED}. {AS_THEY_ARE}")
    front = _FRONT_MATTER.match(beginning)
    if front or suffix in (".yaml", ".yml"):
        return of_content(of_yaml(front[1] if front else text, path.name), path.name)
    if suffix != ".json" and are_all_in_brackets(beginning):
        raise BadLabels(f"{path.name}: all lines are words in brackets, which is no JSON; {WANTED}. {AS_THEY_ARE}")
    bracketed = beginning[0] in "{[" and not is_name_in_brackets(beginning)
    if suffix == ".json" or bracketed or is_printed(beginning):
        return of_content(json_or_python(text, path.name, named=suffix == ".json"), path.name)
    if suffix == ".pbtxt" or is_label_map(text):
        return of_content(of_label_map(text, path.name), path.name)
    if suffix == ".py" or _ASSIGNED.match(beginning):
        return of_content(assigned(text, path.name), path.name)
    if re.search(r"^names:", text, re.MULTILINE):
        return of_content(of_yaml(text, path.name), path.name)
    lines = [trimmed(line) for line in re.split(r"\r\n|\n|\r", text.rstrip())]
    if len(lines) > MAX_CLASSES:
        raise BadLabels(
            f"{path.name} has more than {MAX_CLASSES:,} lines, and no network here so many classes; {WANTED}"
        )
    return of_table(lines, path.name, named=suffix in (".csv", ".tsv")) or of_lines(lines, path.name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LABEL_FILE_BYTES + 1)
    except OSError as err:
        raise BadLabels(f"cannot read {path}: {err.strerror}") from err
    if len(raw) > MAX_LABEL_FILE_BYTES:
        raise BadLabels(
            f"{path.name} has more than {MAX_LABEL_FILE_BYTES >> 20} MiB, which is not a list of labels; {WANTED}"
        )
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
    if not trimmed(text):
        raise BadLabels(f"{path.name} is empty; {WANTED}")
    return text
