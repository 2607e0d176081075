"""Shared objects without code, written without a compiler: the least that the dynamic loader takes for a library.

ELF-64 for x86-64, as in the System V ABI, chapters 4 and 5.
"""

import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")

_SHARED_OBJECT, _X86_64 = 3, 62
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_READ_WRITE = 4 | 2  # the loader writes into the dynamic section
_GLOBAL_FUNCTION = 1 << 4 | 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 4, 5, 6, 10, 11, 14


def shared_object(soname: str, functions: Sequence[str]) -> bytes:
    """A library called `soname` that exports `functions`. None of them may be called: there is nothing behind them."""
    names = b"".join(name.encode() + b"\0" for name in ("", soname, *functions))

    def offset(name: str) -> int:
        return names.index(b"\0" + name.encode() + b"\0") + 1

    start = _HEADER.size + 2 * _SEGMENT.size
    # An address of 0 would mean that the symbol is not defined; any other will do.
    defined = [_SYMBOL.pack(offset(name), _GLOBAL_FUNCTION, 0, 1, start, 0) for name in functions]
    symbols = bytes(_SYMBOL.size) + b"".join(defined)
    count = 1 + len(functions)
    # A hash table of one bucket, whose chain goes through all symbols: 1, 2, …, and 0, which ends it.
    chain = [*range(1, count), 0]
    table = struct.pack(f"<{3 + count}I", 1, count, chain[0], 0, *chain[1:])

    symbols_at = start
    table_at = symbols_at + len(symbols)
    names_at = table_at + len(table)
    dynamic_at = (names_at + len(names) + 7) // 8 * 8
    tags = {
        _DT_SONAME: offset(soname),
        _DT_HASH: table_at,
        _DT_STRTAB: names_at,
        _DT_SYMTAB: symbols_at,
        _DT_STRSZ: len(names),
        _DT_SYMENT: _SYMBOL.size,
        0: 0,
    }
    dynamic = b"".join(_DYNAMIC.pack(tag, value) for tag, value in tags.items())
    size = dynamic_at + len(dynamic)

    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    sizes = (_HEADER.size, _SEGMENT.size, 2, 0, 0, 0)
    header = _HEADER.pack(identification, _SHARED_OBJECT, _X86_64, 1, 0, _HEADER.size, 0, 0, *sizes)
    whole = _SEGMENT.pack(_LOAD, _READ_WRITE, 0, 0, 0, size, size, 4096)
    section = _SEGMENT.pack(
        _DYNAMIC_SEGMENT, _READ_WRITE, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8
    )
    return (header + whole + section + symbols + table + names).ljust(dynamic_at, b"\0") + dynamic
