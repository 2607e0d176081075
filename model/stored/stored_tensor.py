"""A tensor as a file describes it: a view of bytes in the mapped file, whose values are read when needed."""

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from model.stored.pickled import Malformed

DType = np.dtype[Any]

_BEYOND_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
# PyTorch's numbers by the names that it has for them, which are NumPy's and ml_dtypes' too.
DTYPES: dict[str, DType] = {
    name: np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "complex64", "complex128", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
} | {name: np.dtype(getattr(ml_dtypes, name)) for name in _BEYOND_NUMPY}
WEIGHT_DTYPES = frozenset(DTYPES[name] for name in ("float32", "float16", "bfloat16", "float64"))


@dataclass(eq=False, repr=False)
class Storage:
    """Bytes that tensors are views of. A file may have them behind the tensors: `data` is empty until then."""

    dtype: DType
    data: memoryview = field(default_factory=lambda: memoryview(b""))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a file describes it; shape, stride and offset count elements.

    `negative` is PyTorch's bit of a view whose values are those of its storage with the other sign.
    """

    storage: Storage
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    negative: bool = False

    def load(self) -> NDArray[Any]:
        """Its values, contiguous, in memory of their own; Malformed if they lie outside of the storage."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        held = len(self.storage.data) // self.dtype.itemsize
        if last >= held:
            raise Malformed("a tensor reaches past the end of its storage")
        if math.prod(self.shape) > held:
            raise Malformed("a tensor claims more values than its storage has")
        start = self.offset * self.dtype.itemsize
        flat = np.frombuffer(self.storage.data, self.dtype, count=last + 1 - self.offset, offset=start)
        steps = [step * self.dtype.itemsize for step in self.stride]
        values = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False).copy(order="C")
        return np.negative(values) if self.negative else values


@dataclass(frozen=True, slots=True)
class Unusable:
    """What stands where a tensor of numbers could: `what` says what it is."""

    what: str


def in_a_row(storage: Storage, shape: tuple[int, ...]) -> StoredTensor:
    """The tensor whose values are those of `storage`, the last axis varying fastest."""
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(storage, storage.dtype, shape, stride, 0)
