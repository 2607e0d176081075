"""Safetensors files: the library checks the header, and tensors stay in the mapped file until they are read."""

import json
import mmap
from pathlib import Path
from typing import Any

from safetensors import safe_open

from model.stored.stored_tensor import DTYPES, Storage, StoredTensor, Unusable, in_a_row

_LENGTH_BYTES = 8  # of the header, at the start of the file
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_METADATA = "__metadata__"

# https://huggingface.co/docs/safetensors, "Format"
_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` has a header of JSON behind its length, as nothing else has."""
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length < _MAX_HEADER_BYTES


def read_safetensors(path: Path) -> dict[str, StoredTensor | Unusable]:
    """The tensors of the file by name; raises safetensors.SafetensorError if it is damaged."""
    with safe_open(path, "numpy"), path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(bytes(content[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    data = content[_LENGTH_BYTES + length :]
    return {name: _tensor(described, data) for name, described in header.items() if name != _METADATA}


def _tensor(described: dict[str, Any], data: memoryview) -> StoredTensor | Unusable:
    name = _NAMES.get(described["dtype"])
    if name is None:
        return Unusable(f"a tensor of {described['dtype']}")
    start, end = described["data_offsets"]
    return in_a_row(Storage(DTYPES[name], data[start:end]), tuple(described["shape"]))
