import shutil
from pathlib import Path

import pytest

from export import to_trt
from export.plans.plan_source import PlanSource
from tests.export.to_trt.fake_builder import VIEWS, made_once


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


@pytest.fixture(autouse=True)
def quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt, "PROOF_VIEWS", VIEWS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PlanSource, "at", made_once)
