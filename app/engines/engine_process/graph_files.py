"""Reads a bundle's files by their open descriptors, which keep them when another bundle takes the folder."""

import hashlib
import os

from bundle.bundle_errors import BadBundle


def checked_graph(file: int, digest: str) -> bytes:
    """The graph in the open `file`; BadBundle unless `digest` is its sha256."""
    graph = file_content(file)
    if hashlib.sha256(graph).hexdigest() != digest:
        raise BadBundle("the bundle's graph was overwritten while it was served; export it again")
    return graph


def file_content(file: int) -> bytes:
    """All bytes of an open file."""
    # By offset: other workers have the same open file.
    content = bytearray()
    while chunk := os.pread(file, 1 << 26, len(content)):
        content += chunk
    return bytes(content)
