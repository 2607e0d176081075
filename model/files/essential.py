"""The part of an image file that makes its pixels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Essential:
    """An image file without metadata.

    Attributes:
        kind: Pillow's name of the format.
        body: the file, with only the bytes that make its pixels.
        orientation: Exif's.
        ended: whether the file has its format's end; without it some data may be missing.
    """

    kind: str
    body: bytes
    orientation: int = 1
    ended: bool = True
