"""Builds without TensorRT, without a bundle, or without what the bundle should offer."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bundle.installation import install_command
from export import to_trt
from tests.export.to_trt.fake_builder import FOLDER, run
from tests.support.folders import tree
from tests.support.reference_network import TINY


def test_without_tensorrt_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "export.plans.builder", raising=False)
    assert to_trt.main(["--variant", TINY.name, "--bundle", str(tmp_path / "b")]) == 1
    err = capsys.readouterr().err
    assert err == f"error: TensorRT is not installed: {install_command('gpu')} installs what engines need\n"
    assert list(tmp_path.iterdir()) == []


def test_where_no_bundle_is_one_is_pulled_first(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "b"

    def pull(argv: list[str]) -> int:
        assert argv == [TINY.name, "--out", str(out)]
        shutil.copytree(bundle, out)
        return 0

    monkeypatch.setattr("export.to_trt.pull", pull)
    assert run(out, "--resolutions", "224") == 0
    assert f"no bundle at {out}; making it first" in capsys.readouterr().out
    assert (out / "engines" / FOLDER.format(224) / "plan").exists()


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (130, 130)])
def test_a_pull_that_fails_or_is_interrupted_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: int
) -> None:
    monkeypatch.setattr("export.to_trt.pull", lambda _: code)
    assert run(tmp_path / "b") == expected


def test_a_folder_that_is_not_a_bundle_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    assert run(tmp_path) == 1
    assert "is not a bundle; it is not touched" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_resolution_that_the_bundle_does_not_offer(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["preprocessing"]["480"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(copy, "--resolutions", "480") == 1
    assert "does not offer 480, but 224, 384" in capsys.readouterr().err
    assert run(copy, "--resolutions", "224", "--images", str(copy)) == 1
    assert "no photographs" in capsys.readouterr().err
