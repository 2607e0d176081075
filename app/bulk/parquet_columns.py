"""Which columns of a Parquet source are read, and whether they can be what they are named for."""

from collections.abc import Callable, Iterator
from typing import Any

from app.bulk.bulk_options import BulkOptions
from app.errors import BadParameter


def check_columns(source: str, schema: Any, options: BulkOptions) -> None:
    """Raise BadParameter if a named column is not in `schema`, or has another type than bytes, text or numbers."""
    kinds = dict(_leaves_of(schema))
    named = [name for name in (options.bytes_column, options.path_column, options.id_column) if name]
    missing = [name for name in named if name not in kinds]
    if missing or not (options.bytes_column or options.path_column):
        binary = [name for name, kind in kinds.items() if _is_binary(kind)]
        hint = f"; --bytes-column {binary[0]} has bytes" if binary else ""
        what = f"there is no column {missing[0]}" if missing else "name --bytes-column or --path-column"
        raise BadParameter(f"{source}: {what}; the columns are {', '.join(kinds)}{hint}")
    wanted: list[tuple[str, str | None, Callable[[Any], bool], str]] = [
        ("--bytes-column", options.bytes_column, _is_binary, "bytes"),
        ("--path-column", options.path_column, _is_text, "text"),
        ("--id-column", options.id_column, _is_id, "text or whole numbers"),
    ]
    for option, name, fits, what in wanted:
        if name and not fits(kinds[name]):
            raise BadParameter(f"{source}: {option} {name} has {kinds[name]}; it has to have {what}")


def plain_column(batch: Any, name: str) -> Any:
    """The column called `name`, which may be a member of structs, without a dictionary."""
    import pyarrow as pa
    from pyarrow import compute

    if name in batch.schema.names:
        column = batch.column(name)
    else:
        outer, *inner = name.split(".")
        column = compute.struct_field(batch.column(outer), inner)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _leaves_of(fields: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The names, with those of the structs around them, and the types of columns."""
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            inner = [field.type.field(index) for index in range(field.type.num_fields)]
            yield from _leaves_of(inner, f"{prefix}{field.name}.")
        else:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            yield f"{prefix}{field.name}", kind


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_id(kind: Any) -> bool:
    import pyarrow as pa

    return _is_text(kind) or bool(pa.types.is_integer(kind))
