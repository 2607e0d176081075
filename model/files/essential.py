"""What is kept of an image file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Essential:
    """A file of Pillow's format `kind` with what makes the pixels alone, and Exif's number of how they are turned.

    Unless `ended` the file ended without saying so: some of its data may be missing.
    """

    kind: str
    body: bytes
    orientation: int = 1
    ended: bool = True
