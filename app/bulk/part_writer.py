"""Writes the parts of a bulk run: each is made by one worker, from one unit of work."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from app.bulk.bulk_options import BulkModel
from app.bulk.result_folder import COUNTS_KEY, MODEL_KEY, PartCounts, ResultFolder
from app.bulk.result_rows import ResultRow, result_schema
from app.bulk.row_maker import RowMaker
from app.bulk.source_listing import Unit

_ROWS_AT_ONCE = 256  # in memory before they are written


class PartWriter:
    """Writes the rows that `rows` makes to `folder`.

    Args:
        folder: of the results.
        rows: makes them.
        model: what answers; each part says so.
        on_row: is called for each row.
    """

    def __init__(
        self, folder: ResultFolder, rows: RowMaker, model: BulkModel, on_row: Callable[[], None] = lambda: None
    ) -> None:
        self._folder = folder
        self._rows = rows
        self._on_row = on_row
        self._schema = result_schema(rows.embedding_width).with_metadata({MODEL_KEY: model.model_dump_json()})

    async def write(self, number: int, unit: Unit) -> PartCounts:
        """Write the part `number`, whose rows are those of `unit`. Raises as RowMaker.of_unit, and leaves no trace."""
        from pyarrow import parquet  # here, since it is optional

        rows = problems = 0
        waiting: list[ResultRow] = []
        with self._folder.part(number) as file, parquet.ParquetWriter(file, self._schema, compression="zstd") as writer:
            async with aclosing(self._rows.of_unit(unit)) as found:
                async for row in found:
                    rows, problems = rows + 1, problems + (row["problem"] is not None)
                    waiting.append(row)
                    self._on_row()
                    if len(waiting) == _ROWS_AT_ONCE:
                        await asyncio.to_thread(self._write, writer, waiting)
                        waiting = []
            await asyncio.to_thread(self._write, writer, waiting)
            counts = PartCounts(rows, problems)
            writer.add_key_value_metadata({COUNTS_KEY: json.dumps({"rows": rows, "problems": problems})})
        return counts

    def _write(self, writer: Any, rows: list[ResultRow]) -> None:
        import pyarrow as pa

        writer.write_table(pa.Table.from_pylist(rows, self._schema))
