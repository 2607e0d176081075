"""Rows of images in memory, as Ray Data gives them."""

import asyncio
from pathlib import Path

from app.bulk.bulk_options import DEFAULT_HELD_BYTES, BulkOptions
from app.bulk.bulk_run import started_rows
from app.bulk.result_rows import ResultRow
from app.configuration.settings import Settings
from tests.support.pictures import JPEG


def test_an_image_in_memory_over_the_limit_is_too_large(bundle: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=bundle, engine="onnxruntime", precision="f32", decoders=1, max_body_bytes=len(JPEG))

    async def rows() -> list[ResultRow]:
        async with started_rows(settings, BulkOptions(), str(tmp_path), DEFAULT_HELD_BYTES) as (maker, _):
            return await maker.of_bytes([JPEG, JPEG + b"x", None])

    found = asyncio.run(rows())
    assert [row["problem"] and row["problem"]["reason"] for row in found] == [None, "TooLarge", "NoImage"]
    assert found[1]["problem"]["detail"] == f"the file is over the limit of {len(JPEG):,} bytes"
