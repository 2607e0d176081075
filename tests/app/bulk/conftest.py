"""A folder of images, some of them broken, and bulk runs of it in this process."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs, parquet

from app.bulk.bulk_options import BulkOptions
from app.bulk.bulk_run import BulkPlan, local_workers, run_bulk
from app.bulk.file_systems import file_system
from app.configuration.settings import Settings
from tests.support.pictures import JPEG, encoded, scene

RunBulk = Callable[..., pd.DataFrame]


class NoProgress:
    """Shows nothing."""

    def remark(self, text: str) -> None:
        pass

    def begin(self, total: int | None, done: int, parts: int, parts_done: int) -> None:
        pass

    def rows(self, count: int) -> None:
        pass


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images and four files that are none, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for number in range(8):
        place = folder / "more" if number % 2 else folder
        (place / f"{number}.jpg").write_bytes(encoded(scene(90 + number, 70, number), "JPEG"))
    (folder / "cut.jpg").write_bytes(JPEG[:3000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.gif").write_bytes(b"hello")
    (folder / "url.jpg").write_bytes(b"https://example.com/a.jpg")
    return folder


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> RunBulk:
    """Runs sources into the folder `out`, with the engine of the fixture `server`; the rows by their ids."""

    def run(*sources: object, out: str = "out", limit: int | None = None, **options: object) -> pd.DataFrame:
        limits = {} if limit is None else {"max_body_bytes": limit}
        settings = Settings(bundle=bundle, engine="onnxruntime", precision="f32", decoders=1, **limits)  # type: ignore[arg-type]
        asked = BulkOptions.model_validate({"part_size": 5} | options)
        plan = BulkPlan([str(source) for source in sources], out, str(tmp_path), asked, settings)
        counts = asyncio.run(run_bulk(plan, local_workers, NoProgress()))
        rows = rows_in(out, tmp_path)
        assert (counts.rows, counts.problems) == (len(rows), int(rows["problem"].notna().sum()))
        return rows

    return run


def rows_in(out: str, base: Path) -> pd.DataFrame:
    """The rows in the folder of results, as a stranger reads them; each id is there once."""
    files, root = file_system(out, str(base))
    rows = parquet.read_table(root, filesystem=files).to_pandas().set_index("id")
    assert rows.index.is_unique
    assert [info.path for info in files.get_file_info(fs.FileSelector(f"{root}/_bulk")) if "partial" in info.path] == []
    return rows
