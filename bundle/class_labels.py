"""Labels of classes, in labels.json: a list in the order of the class indices."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from bundle.atomic_files import write_json
from bundle.bundle_errors import BadBundle, first_error
from bundle.file_names import LABELS
from model.control_characters import controls


def _without_controls(label: str) -> str:
    """`label` with U+FFFD for control characters, which a bundle from elsewhere may have."""
    return "".join("\ufffd" if controls(character) else character for character in label)


PrintableLabel = Annotated[str, AfterValidator(_without_controls)]


class ClassLabel(BaseModel):
    """The name of the class `index`; `wnid` is WordNet's identifier, where the class has one."""

    index: int
    wnid: PrintableLabel | None
    label: PrintableLabel


_LABELS = TypeAdapter(list[ClassLabel])


def bundle_labels(entries: Iterable[Mapping[str, object]]) -> list[ClassLabel]:
    """The labels of `entries`, each a model.labels.LabelEntry."""
    return [ClassLabel.model_validate(entry) for entry in entries]


def parse_labels(content: bytes, path: Path, classes: int) -> list[ClassLabel]:
    """The labels that were read from `path`. Raises BadBundle if they are not those of `classes` classes."""
    try:
        labels = _LABELS.validate_json(content)
    except ValidationError as err:
        raise BadBundle(f"{path}: {first_error(err)}; export the bundle again with this version") from err
    if [label.index for label in labels] != list(range(classes)):
        raise BadBundle(f"{path} does not name the model's {classes} classes; export the bundle again")
    return labels


def write_labels(folder: Path, labels: Sequence[ClassLabel]) -> None:
    """Write labels.json into `folder`."""
    write_json(folder / LABELS, [label.model_dump() for label in labels])
