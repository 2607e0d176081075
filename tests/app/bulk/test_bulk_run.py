"""Bulk runs of every kind of source: their rows are the answers of the service, each image once."""

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.bulk.result_folder import MODEL_KEY
from app.errors import BadParameter, EngineFailed
from app.serving.served_model import ServedModel
from tests.app.bulk.conftest import RunBulk
from tests.support.reference_network import TINY


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def test_rows_are_what_the_service_answers(run: RunBulk, pictures: Path, client: httpx.Client) -> None:
    rows = run(pictures, top_k=3, embeddings=True)
    assert sorted(rows.index) == [f"{pictures}/{name}" for name in names(pictures)]
    for path in rows.index:
        upload = {"files": Path(path).read_bytes()}
        result = client.post("/classify/batch", files=upload, params={"top_k": 3}).json()["results"][0]
        row = rows.loc[path]
        if "predictions" in result:
            expected = result["predictions"]
            assert [each["index"] for each in row["predictions"]] == [each["index"] for each in expected]
            scores = [each["score"] for each in row["predictions"]]
            np.testing.assert_allclose(scores, [each["score"] for each in expected], atol=1e-5)
            assert row[["index", "wnid", "label"]].to_dict() == {
                name: expected[0][name] for name in ("index", "wnid", "label")
            }
            embedding = client.post("/embed", content=Path(path).read_bytes()).json()["embedding"]
            np.testing.assert_allclose(row["embedding"], embedding, atol=1e-4)
        else:
            problem = {"type": "about:blank"} | result["problem"]
            assert row["problem"] | {"request_id": problem["request_id"]} == problem
            assert row["predictions"] is None
            assert pd.isna(row["index"])
            assert row["embedding"] is None
    assert int(rows["problem"].notna().sum()) == 4


@pytest.mark.exhaustive
def test_parts_say_what_they_were_made_by(run: RunBulk, pictures: Path, tmp_path: Path) -> None:
    run(pictures, embeddings=True)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [path.name for path in parts] == [f"part-{number:06}.parquet" for number in range(3)]
    assert [parquet.read_metadata(path).num_rows for path in parts] == [5, 5, 2]
    model = json.loads(parquet.read_schema(parts[0]).metadata[MODEL_KEY.encode()])
    assert (model["name"], model["resolution"], model["precision"]) == (TINY.name, 224, "f32")
    assert model["weights"].startswith("sha256:")
    assert parquet.read_schema(parts[0]).field("embedding").type == pa.list_(pa.float32(), sum(TINY.dims))


@pytest.fixture
def of_folder(run: RunBulk, pictures: Path) -> pd.DataFrame:
    """What other sources have to give, by the names in `pictures`."""
    rows = run(pictures, out="of-folder")
    return rows.rename(index=lambda path: path.removeprefix(f"{pictures}/"))


def check(rows: pd.DataFrame, of_folder: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(rows.sort_index(), of_folder.sort_index())


@pytest.mark.exhaustive
def test_tar_files_give_the_same_rows(run: RunBulk, pictures: Path, of_folder: pd.DataFrame, tmp_path: Path) -> None:
    for name, mode in (("a.tar", "w"), ("b.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            for each in names(pictures):
                archive.add(pictures / each, each)
            label = tarfile.TarInfo("0.cls")
            label.size = 1
            archive.addfile(label, io.BytesIO(b"1"))
    rows = run("a.tar", "b.tgz")
    for name in ("a.tar", "b.tgz"):
        mine = rows[rows.index.str.startswith(name)]
        check(mine.rename(index=lambda path: path.partition("#")[2]), of_folder)


@pytest.mark.exhaustive
def test_a_tar_file_that_breaks_off_ends_with_a_problem(run: RunBulk, pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in (0, 2, 4):
            archive.add(pictures / f"{number}.jpg", f"{number}.jpg")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(b"4.jpg") + 700])
    rows = run("a.tar")
    assert list(rows.index) == ["a.tar#0.jpg", "a.tar#2.jpg", "a.tar#4.jpg", "a.tar"]
    assert rows["problem"].notna().tolist() == [False, False, True, True]
    assert "breaks off after" in rows.loc["a.tar", "problem"]["detail"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("column", ["bytes", "image.bytes"])
def test_parquet_with_bytes_gives_the_same_rows(
    run: RunBulk, pictures: Path, of_folder: pd.DataFrame, tmp_path: Path, column: str
) -> None:
    found = names(pictures)
    contents = [(pictures / name).read_bytes() for name in found]
    columns: dict[str, Any] = {"name": found}
    columns |= {"bytes": contents} if column == "bytes" else {"image": [{"bytes": each} for each in contents]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    check(run("a.parquet", bytes_column=column, id_column="name"), of_folder)
    numbered = run("a.parquet", out="numbered", bytes_column=column)
    assert sorted(numbered.index) == sorted(f"a.parquet#{row}" for row in range(len(found)))


@pytest.mark.exhaustive
def test_lists_and_parquet_with_paths_give_the_same_rows(
    run: RunBulk, pictures: Path, of_folder: pd.DataFrame, tmp_path: Path
) -> None:
    paths = [f"{pictures}/{name}" for name in names(pictures)]
    parquet.write_table(pa.table({"path": paths}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n".join([*paths, "", f"{pictures}/gone.jpg"]))
    for rows in (run("a.parquet", path_column="path"), run("a.txt", out="listed")):
        gone = rows.index.str.endswith("gone.jpg")
        check(rows[~gone].rename(index=lambda path: path.removeprefix(f"{pictures}/")), of_folder)
        for _, row in rows[gone].iterrows():
            assert row["problem"]["detail"] == "the file cannot be read: No such file or directory"


@pytest.fixture
def web(pictures: Path) -> Iterator[str]:
    """A web server of the pictures."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=pictures)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.exhaustive
def test_urls_are_fetched_and_a_missing_one_is_a_row(run: RunBulk, web: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"{web}/0.jpg\n{web}/gone.jpg\n{web}/more/1.jpg\n")
    rows = run("urls.txt", out="memory://results")
    assert list(rows.index) == [f"{web}/0.jpg", f"{web}/gone.jpg", f"{web}/more/1.jpg"]
    assert rows["problem"].notna().tolist() == [False, True, False]
    assert rows["problem"].iloc[1]["reason"] == "NoImage"


@pytest.mark.exhaustive
def test_a_file_over_the_limit_is_a_row(run: RunBulk, pictures: Path) -> None:
    limit = (pictures / "0.jpg").stat().st_size
    rows = run(pictures / "0.jpg", pictures / "cut.jpg", limit=limit - 1)
    assert rows["problem"].iloc[0]["reason"] == "TooLarge"
    assert rows["problem"].iloc[0]["detail"] == f"the file is over the limit of {limit - 1:,} bytes"


@pytest.mark.exhaustive
def test_an_engine_that_fails_ends_the_run_and_makes_no_row_of_it(
    run: RunBulk, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is a stand-in from the sixth image on, since the real one cannot be made to fail here."""
    real, asked = ServedModel.classify, 0

    async def classify(self: ServedModel, *arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 5:
            raise EngineFailed("the engine ended")
        return await real(self, *arguments, **options)

    monkeypatch.setattr(ServedModel, "classify", classify)
    monkeypatch.setattr("app.bulk.row_maker._ATTEMPTS", 1)
    with pytest.raises(EngineFailed):
        run(pictures)
    monkeypatch.undo()
    rows = run(pictures)
    assert len(rows) == 12
    assert int(rows["problem"].notna().sum()) == 4


def test_what_there_is_is_not_made_again(run: RunBulk, pictures: Path, tmp_path: Path) -> None:
    first = run(pictures)
    kept, gone, cut = sorted((tmp_path / "out").glob("*.parquet"))
    before = kept.stat().st_mtime_ns
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    (tmp_path / "out" / "_bulk" / "partial-part-000001.parquet-x").write_bytes(b"")
    check(run(pictures), first)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 3}, "top_k was 5 and is 3"),
        pytest.param({"resolution": 384}, "resolution was 224 and is 384", marks=pytest.mark.exhaustive),
        pytest.param({"limit": 1000}, "max_body_bytes was 10000000 and is 1000", marks=pytest.mark.exhaustive),
    ],
)
def test_a_run_with_other_options_is_refused(
    run: RunBulk, pictures: Path, options: dict[str, Any], message: str
) -> None:
    run(pictures)
    with pytest.raises(BadParameter, match=message):
        run(pictures, **options)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "there is no nowhere"),
        ("nothing", {}, "nothing: no images there: 1 of .heic cannot be read"),
        (
            "nothing/a.parquet",
            {},
            "name --bytes-column or --path-column; the columns are name, data; --bytes-column data",
        ),
        ("nothing/a.parquet", {"bytes_column": "jpeg"}, "there is no column jpeg; the columns are name, data"),
        ("pictures", {"resolution": 225}, "resolution 225 is not served; one of 224, 384, 480"),
        ("nosuch://bucket/prefix/", {}, "nosuch"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(
    run: RunBulk, pictures: Path, tmp_path: Path, source: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "a.heic").write_bytes(b"x")
    table = pa.table({"name": ["a"], "data": [b"x"]})
    parquet.write_table(table, tmp_path / "nothing" / "a.parquet") if "parquet" in source else None
    with pytest.raises(BadParameter, match=message):
        run(pictures if source == "pictures" else source, **options)


def test_a_folder_in_the_results_of_another_run_is_refused(run: RunBulk, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "_bulk").mkdir(parents=True)
    (tmp_path / "out" / "_bulk" / "manifest.json").write_text("{}")
    with pytest.raises(BadParameter, match=r"out/more lies in .*/out, which holds a bulk run"):
        run(pictures, out="out/more")
    assert not (tmp_path / "out" / "more").exists()


def test_a_resolution_is_checked_before_sources_are_listed(run: RunBulk) -> None:
    with pytest.raises(BadParameter, match="resolution 225 is not served"):
        run("nowhere", resolution=225)


def test_a_folder_that_holds_anything_else_is_left_alone(run: RunBulk, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(BadParameter, match=r"holds mine\.txt and no bulk run"):
        run(pictures)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
