"""`crossvit explain` and `crossvit embed`, which answer as the service does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from app.commands.embed_command import main as embed
from app.commands.explain_command import main as explain
from bundle import installation
from tests.support.pictures import JPEG, encoded, scene
from tests.support.reference_network import TINY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two of one name, and a file that is none."""
    place = tmp_path / "images"
    (place / "more").mkdir(parents=True)
    (place / "a.jpg").write_bytes(JPEG)
    (place / "b.jpg").write_bytes(JPEG[:3000])
    (place / "more" / "a.jpg").write_bytes(encoded(scene(300, 280), "JPEG"))
    return place


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_explain_writes_overlays_and_what_the_service_answers(
    folder: Path, bundle: Path, client: httpx.Client, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "here"
    done = run(explain, folder, "--bundle", bundle, "--out", out, "--top-k", 2)
    assert done.exit_code == 1, done.output  # b.jpg
    lines = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).relative_to(folder) for line in lines] == [
        Path("a.jpg"), Path("b.jpg"), Path("more/a.jpg"),
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg-2.png", "a.jpg.png", "explanations.jsonl"]
    first, second, third = lines
    assert "incomplete" in second["error"]
    assert (first["overlay"], third["overlay"]) == ("a.jpg.png", "a.jpg-2.png")
    answer = client.post("/explain", content=JPEG, params={"top_k": 2}).json()
    assert first["picture"] == answer["picture"]
    for mine, its in zip(first["explanations"], answer["explanations"], strict=True):
        assert (mine["index"], mine["rank"]) == (its["index"], its["rank"])
        np.testing.assert_allclose(
            mine["contributions"]["small"]["grid"], its["contributions"]["small"]["grid"], atol=1e-5
        )
    overlay = client.post("/explain", content=JPEG, headers={"Accept": "image/png"}).content
    with Image.open(out / "a.jpg.png") as mine:
        assert mine.size == (500, 375)
    assert abs(len((out / "a.jpg.png").read_bytes()) - len(overlay)) < 2000
    assert first["explanations"][0]["label"] in done.output


def test_explain_takes_a_class_by_its_label(folder: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(
        explain, folder / "a.jpg", "--bundle", bundle, "--out", tmp_path, "--class", "tench", "--map", "attention"
    )
    assert done.exit_code == 0, done.output
    (line,) = (tmp_path / "explanations.jsonl").read_text().splitlines()
    assert [each["label"] for each in json.loads(line)["explanations"]] == ["tench"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "no such"], "there is no class 'no such'"),
        (["--class", "1", "--top-k", "2"], "leave one of them out"),
        (["--resolution", "225"], "resolution 225 is not served; one of 224, 384, 480"),
        (["--branch", "middle"], "middle"),
        (["--opacity", "2"], "opacity"),
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
    ],
)
def test_explain_refuses_what_cannot_be(
    folder: Path, bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    bundles = [] if "--bundle" in options else ["--bundle", bundle]
    done = run(explain, folder, "--out", tmp_path / "out", *bundles, *options)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_explain_says_that_it_cannot_write(folder: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(explain, folder, "--bundle", bundle, "--out", tmp_path / "file")
    assert done.exit_code == 2
    assert "cannot be written: File exists" in done.output


@pytest.mark.parametrize("name", ["found.npy", "found.npz", "found.parquet"])
def test_embed_writes_each_format(folder: Path, bundle: Path, client: httpx.Client, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    done = run(embed, folder, "--bundle", bundle, "--out", out)
    assert done.exit_code == 1
    assert "b.jpg: the JPEG image is incomplete" in done.output
    assert f"2 embeddings of {sum(TINY.dims)} numbers" in done.output
    expected = client.post("/embed", content=JPEG).json()["embedding"]
    paths = [str(folder / "a.jpg"), str(folder / "more" / "a.jpg")]
    if name.endswith("npy"):
        embeddings = np.load(out)
        assert embeddings.shape == (3, sum(TINY.dims))
        assert np.isnan(embeddings[1]).all()
    elif name.endswith("npz"):
        with np.load(out) as arrays:
            embeddings = arrays["embeddings"]
            assert [*arrays["paths"]] == paths
    else:
        from pyarrow import parquet

        table = parquet.read_table(out)
        assert table["path"].to_pylist() == paths
        embeddings = np.array(table["embedding"].to_pylist(), np.float32)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["found.npz", "found.parquet"])
def test_embed_escapes_file_names_that_are_not_utf_8(bundle: Path, tmp_path: Path, name: str) -> None:
    picture = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    picture.write_bytes(JPEG)
    done = run(embed, picture, "--bundle", bundle, "--out", tmp_path / name)
    assert done.exit_code == 0, done.output
    if name.endswith("npz"):
        with np.load(tmp_path / name) as arrays:
            paths = [*arrays["paths"]]
    else:
        from pyarrow import parquet

        paths = parquet.read_table(tmp_path / name)["path"].to_pylist()
    assert paths == [str(tmp_path / r"caf\udce9.jpg")]


def test_explain_finds_that_it_cannot_write_before_it_computes(folder: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "explanations.jsonl").mkdir(parents=True)
    done = run(explain, folder, "--bundle", bundle, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "cannot be written: Is a directory" in done.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explanations.jsonl"]


def test_embed_of_one_branch_has_the_length_one_where_asked(folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.npy"
    done = run(embed, folder / "a.jpg", "--bundle", bundle, "--out", out, "--branch", "small", "--normalize")
    assert done.exit_code == 0, done.output
    embeddings = np.load(out)
    assert embeddings.shape == (1, TINY.dims[0])
    assert np.linalg.norm(embeddings[0]) == pytest.approx(1, abs=1e-5)


def test_embed_of_nothing_but_broken_files_writes_nothing(folder: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(embed, folder / "b.jpg", "--bundle", bundle, "--out", tmp_path / "found.npz")
    assert done.exit_code == 1
    assert "no file could be embedded" in done.output
    assert not (tmp_path / "found.npz").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("found.csv", "the name must end in one of .npy, .npz, .parquet"),
        ("found", "the name must end in one of"),
        ("nowhere/found.npy", "there is no folder"),
        ("folder.npy", "folder.npy cannot be written: Is a directory"),
        ("folder.npz", "folder.npz cannot be written: Is a directory"),
        ("folder.parquet", "folder.parquet cannot be written: Is a directory"),
        (f"{'x' * 250}.npy", "cannot be written: File name too long"),
    ],
)
def test_embed_refuses_files_that_it_cannot_write_before_it_computes(
    folder: Path, tmp_path: Path, out: str, message: str
) -> None:
    if out.startswith("folder"):
        (tmp_path / out).mkdir()
    done = run(embed, folder, "--bundle", "/nowhere", "--out", tmp_path / out)
    assert done.exit_code == 2
    assert message in done.output


def test_parquet_says_which_package_it_needs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda _: None)
    done = run(embed, folder, "--bundle", "/nowhere", "--out", tmp_path / "found.parquet")
    assert done.exit_code == 2
    assert "needs pyarrow, not installed here: pip install" in done.output
    assert "[parquet]" in done.output


def test_both_are_commands_of_crossvit() -> None:
    for name in ("explain", "embed"):
        help_ = subprocess.run(
            [sys.executable, "-m", "app", name, "--help"], capture_output=True, text=True, check=True
        )
        assert f"crossvit {name} [OPTIONS] {{PATHS}}..." in help_.stdout.replace("python -m app", "crossvit")
        assert "--out" in help_.stdout
