"""What torch.save and pickle.dump write, read without PyTorch's unpickler: tensors are described, not made.

Formats: torch.save's zip archive (1.6 and later), its older sequence of pickles, and a plain pickle of tensors or NumPy
arrays. A tensor is a view of a storage's bytes in the mapped file (PyTorch, "Serialization semantics"), so what a file
claims costs nothing until `StoredTensor.load`, which checks it against the bytes that there are.
"""

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import IO, cast

from model.stored import pickled
from model.stored.pickled import Budget, Global, Malformed, Object
from model.stored.stored_tensor import DTYPES, DType, Storage, StoredTensor, Unusable, in_a_row

MAGIC = 0x1950A86A20F9469CFC6C  # of the sequence of pickles
_MAX_NDIM = 8
_MAX_INNER_STORAGES = 5000  # storages that are files of their own,
_MAX_INNER_OPCODES = 100  # and what each may take

# The numbers of a storage, by its class without "Storage".
_STORAGES = {
    **{"Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Double": "float64"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    **{"Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8"},
}
_NUMPY = {"f2": "float16", "f4": "float32", "f8": "float64", "i8": "int64", "i4": "int32"}
# Calls whose results hold no plain numbers, and what those are.
_UNUSABLE = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "a shard (DTensor) or of another class; save the full state_dict",
}


def read_torch_file(file: IO[bytes]) -> object:
    """What `torch.save` or `pickle.dump` put into an open file, as plain data with StoredTensors; raises Malformed."""
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as err:  # of a file that the system makes up, as in /proc
        raise Malformed("its size is not known, so it cannot be mapped: copy it to a file on a disk") from err
    return _read(mapped, memoryview(mapped), _Rebuilder())


def _read(file: mmap.mmap | io.BytesIO, data: memoryview, rebuild: "_Rebuilder") -> object:
    if bytes(data[:4]) == b"PK\3\4":
        return _zip(file, data, rebuild)
    storages: dict[object, Storage] = {}
    first = _pickle(file, rebuild)
    if first != MAGIC:
        return first  # a plain pickle
    _pickle(file, rebuild)  # the version
    system = _pickle(file, rebuild)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Malformed("it was written on a big-endian machine")
    content = _pickle(file, rebuild, lambda key: _later(key, storages))
    keys = _pickle(file, rebuild)
    start = file.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise Malformed("its storages are not those of its tensors")
        size = struct.unpack("<Q", _region(data, start, 8))[0] * storage.dtype.itemsize
        storage.data = _region(data, start + 8, size)
        start += 8 + size
    return content


def _pickle(
    file: mmap.mmap | io.BytesIO, rebuild: "_Rebuilder", persistent: pickled.Persistent | None = None
) -> object:
    return pickled.read_pickle(cast(IO[bytes], file), rebuild, persistent or _no_storage, *rebuild.budgets)


def _zip(file: mmap.mmap | io.BytesIO, data: memoryview, rebuild: "_Rebuilder") -> object:
    try:
        entries = {entry.filename: entry for entry in zipfile.ZipFile(cast(IO[bytes], file)).infolist()}
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, EOFError) as err:
        raise Malformed("the archive is damaged or cut off") from err
    pickle = next((name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if pickle is None:
        raise Malformed("an archive without data.pkl")
    folder = pickle.removesuffix("data.pkl")
    if (order := entries.get(folder + "byteorder")) is not None and bytes(_record(data, order)) != b"little":
        raise Malformed("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(saved: object) -> object:
        dtype, key = _saved_id(saved)
        if key not in storages:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise Malformed(f"the archive lacks data/{key}")
            storages[key] = Storage(dtype, _record(data, entry))
        return storages[key]

    return _pickle(io.BytesIO(_record(data, entries[pickle])), rebuild, persistent)


def _record(data: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of an entry, which torch.save never compresses. Its checksum may be left out, so it is not checked."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Malformed("its archive is compressed or encrypted: pack it again as torch.save writes it")
    header = _region(data, entry.header_offset, 30)
    name, extra = struct.unpack_from("<HH", header, 26)
    return _region(data, entry.header_offset + 30 + name + extra, entry.file_size)


def _region(data: memoryview, start: int, size: int) -> memoryview:
    if start < 0 or start + size > len(data):
        raise Malformed("it is cut off, or claims more bytes than it has")
    return data[start : start + size]


def _saved_id(saved: object) -> tuple[DType, str]:
    """Of ("storage", type, key, device, elements, …), which both formats have: the type and the key."""
    if not (isinstance(saved, tuple) and len(saved) >= 5 and saved[0] == "storage"):
        raise Malformed("an object of it is stored elsewhere")
    kind, key = saved[1:3]
    if not isinstance(kind, Global) or not isinstance(key, str):
        raise Malformed("a storage without type or name")
    name = kind.name.rpartition(".")[2].removesuffix("Storage")
    return DTYPES[_STORAGES.get(name, "uint8")], key


def _later(saved: object, storages: dict[object, Storage]) -> object:
    if isinstance(saved, tuple) and len(saved) > 1 and saved[0] == "module":
        return saved[1]  # a class with its source, which torch.save put beside whole modules
    dtype, key = _saved_id(saved)
    if isinstance(saved, tuple) and saved[5:] != (None,):
        raise Malformed("storages within storages, as PyTorch 0.3 wrote them")
    return storages.setdefault(key, Storage(dtype))


def _no_storage(_: object) -> object:
    raise Malformed("an object of it is stored elsewhere")


class _Rebuilder:
    """What becomes of calls: those that PyTorch writes for tensors make descriptions, all others an Object.

    `budgets` are what its pickles may have. In a plain pickle each storage is a file of its own, which has one more.
    """

    def __init__(self, *budgets: Budget) -> None:
        self.budgets = budgets or (Budget(),)
        self._inner: dict[int, tuple[bytes, object]] = {}
        self._encoded: dict[int, tuple[str, bytes]] = {}

    def __call__(self, name: str, args: tuple[object, ...]) -> object:
        while name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
            function, _, within, _ = args
            if not isinstance(function, Global) or not isinstance(within, tuple):
                raise Malformed("a tensor without arguments")
            name, args = function.name, within
        if name == "torch.storage._load_from_bytes" and len(args) == 1 and isinstance(args[0], bytes):
            return self._storage(args[0])
        if name == "_codecs.encode" and args and isinstance(args[0], str):
            return self._bytes(args[0], *args[1:])
        if name in _UNUSABLE:
            return Unusable(_UNUSABLE[name])
        make = _CALLS.get(name)
        return Object(name, args) if make is None else make(*args)

    def _storage(self, content: bytes) -> object:
        if id(content) not in self._inner:
            if len(self.budgets) > 1 or len(self._inner) == _MAX_INNER_STORAGES:
                raise Malformed("it holds too many files within the file")
            budgets = *self.budgets, Budget(_MAX_INNER_OPCODES)
            within = _read(io.BytesIO(content), memoryview(content), _Rebuilder(*budgets))
            self._inner[id(content)] = content, within  # with `content`, so that its id stays its own
        return self._inner[id(content)][1]

    def _bytes(self, text: str, encoding: object = "latin1", *_: object) -> bytes:
        """Bytes, as protocols 0 to 2 have them; the same ones each time that a file asks for those of one text."""
        if encoding != "latin1":
            raise Malformed("bytes in a coding that pickle does not use")
        if id(text) not in self._encoded:
            self._encoded[id(text)] = text, text.encode("latin1")  # with `text`, so that its id stays its own
        return self._encoded[id(text)][1]


def _tensor(storage: object, offset: object, shape: object, stride: object, *more: object) -> object:
    _requires_grad, _hooks, bits = (*more, None, None, None)[:3]
    return _with_bits(_view(storage, offset, shape, stride, None), bits)


def _tensor_of_type(storage: object, offset: object, shape: object, stride: object, *more: object) -> object:
    _requires_grad, _hooks, dtype, bits = (*more, None)[:4]
    return _with_bits(_view(storage, offset, shape, stride, dtype), bits)


def _with_bits(tensor: StoredTensor | Unusable, bits: object) -> StoredTensor | Unusable:
    """`tensor` with what PyTorch says of a view's values beside their bytes, `{"neg": True}`."""
    if isinstance(tensor, Unusable) or not bits:
        return tensor
    if not isinstance(bits, dict) or tensor.dtype == bool:
        return Unusable("a tensor with marks that are not known")
    other = [str(name) for name, value in bits.items() if name != "neg" and value]
    if other:
        return Unusable(f"a tensor whose values are not those stored ({', '.join(other)}); save its clone()")
    return replace(tensor, negative=bool(bits.get("neg")))


def _view(storage: object, offset: object, shape: object, stride: object, dtype: object) -> StoredTensor | Unusable:
    if isinstance(dtype, Global):
        named = DTYPES.get(dtype.name.removeprefix("torch."))
    else:
        named = storage.dtype if isinstance(storage, Storage) else None
    if not isinstance(storage, Storage) or named is None:
        return Unusable("a tensor of a type that is not known")
    sizes = tuple(shape[: _MAX_NDIM + 1]) if isinstance(shape, tuple | list) else (-1,)
    steps = tuple(stride[: _MAX_NDIM + 1]) if isinstance(stride, tuple | list) else (-1,)
    if len(sizes) != len(steps) or len(sizes) > _MAX_NDIM or not all(map(_is_count, (offset, *sizes, *steps))):
        raise Malformed("a tensor with an impossible shape")
    if math.prod(sizes) >= 1 << 62:
        raise Malformed("a tensor with an impossible shape")
    return StoredTensor(storage, named, sizes, steps, offset)  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 62


def _first(value: object, *_: object) -> object:
    """The tensor within a parameter, or within one of another device."""
    return value


_CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch.Size": _first,
}


def from_numpy(array: Object) -> StoredTensor | Unusable | None:
    """The NumPy array that `array` would be; None if it would be something else."""
    if array.name.endswith(".multiarray._reconstruct") and isinstance(array.state, tuple) and len(array.state) == 5:
        _, shape, dtype, fortran, data = array.state
    elif array.name.endswith("numeric._frombuffer") and len(array.args) == 4:
        data, dtype, shape, layout = array.args
        fortran = layout == "F"
    else:
        return None
    kind = dtype.args[0] if isinstance(dtype, Object) and dtype.args else None
    order = dtype.state[1:2] if isinstance(dtype, Object) and isinstance(dtype.state, tuple) else ()
    if order == (">",):
        return Unusable("a big-endian NumPy array; save array.astype(array.dtype.newbyteorder('<'))")
    known = _NUMPY.get(kind) if isinstance(kind, str) and order else None
    if known is None or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        return Unusable("a NumPy array that holds no plain numbers")
    if len(shape) > _MAX_NDIM or not all(map(_is_count, shape)):
        raise Malformed("an array with an impossible shape")
    tensor = in_a_row(Storage(DTYPES[known], memoryview(data)), shape[::-1] if fortran else shape)
    return replace(tensor, shape=shape, stride=tensor.stride[::-1]) if fortran else tensor
