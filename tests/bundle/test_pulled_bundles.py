import re
import shutil
from pathlib import Path

import pytest

from bundle.bundle_errors import BadBundle
from bundle.cached_source import CachedSource, cached_source
from bundle.pulled_bundles import (
    bundle_named,
    files_of,
    is_unchanged,
    pulled_bundles,
    pulled_folder,
    read_pull_record,
    write_pull_record,
)
from bundle.reader import open_bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pulled(bundle: Path, source: CachedSource, *options: str, fixed: bool = True) -> Path:
    place = pulled_folder(source)
    shutil.copytree(bundle, place)
    write_pull_record(place, source, options, files_of(source, options), fixed=fixed)
    return place


def current(place: Path, source: CachedSource) -> bool:
    record = read_pull_record(place)
    return record is not None and is_unchanged(place, source, record)


def test_a_bundle_is_current_until_a_file_that_it_was_made_of_changes(bundle: Path, tmp_path: Path) -> None:
    weights, labels = tmp_path / "finetuned.pth", tmp_path / "classes.txt"
    weights.write_bytes(b"weights")
    labels.write_text("rose\ntulip\n")
    source = cached_source(str(weights))
    place = pulled(bundle, source, "--labels", str(labels))
    assert place.name == "finetuned"
    assert current(place, source)
    labels.write_text("rose\ndaisy\n")
    assert not current(place, source)
    options = ["--labels", str(labels)]
    write_pull_record(place, source, options, files_of(source, options), fixed=True)
    assert current(place, source)
    weights.write_bytes(b"further")
    assert not current(place, source)


def test_weights_that_stand_in_for_others_are_looked_up_again(bundle: Path) -> None:
    source = cached_source("crossvit_9_dagger")
    assert not current(pulled(bundle, source, fixed=False), source)


def test_a_branch_of_the_hub_is_looked_up_again_and_a_commit_is_not(bundle: Path) -> None:
    branch, commit = cached_source("hf:me/flowers"), cached_source(f"hf:me/flowers@{'a1' * 20}")
    assert not current(pulled(bundle, branch), branch)
    assert current(pulled(bundle, commit), commit)


@pytest.mark.parametrize("damage", ["{", "{}", '{"source": "x"}'])
def test_a_record_that_cannot_be_read_counts_as_none(bundle: Path, damage: str) -> None:
    source = cached_source("crossvit_9_dagger")
    place = pulled(bundle, source)
    (place.parent / "pulled.json").write_text(damage)
    assert read_pull_record(place) is None


def test_two_checkpoints_of_one_file_name_do_not_replace_each_other(bundle: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "best_epoch.pth").write_bytes(b"weights")
    first, second = (pulled(bundle, cached_source(str(tmp_path / run / "best_epoch.pth"))) for run in ("a", "b"))
    assert pulled_bundles() == {"best_epoch": sorted([first, second])}
    with pytest.raises(BadBundle, match=r"several bundles called best_epoch: .*give one of these paths"):
        bundle_named(Path("best_epoch"))


def test_a_bundle_is_found_by_the_name_of_its_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    assert bundle_named(Path(bundle.name)) == Path(bundle.name)  # a path goes before a name
    with pytest.raises(BadBundle, match="none of that name was pulled; crossvit pull crossvit_9_dagger makes one"):
        bundle_named(Path("crossvit_9_dagger"))
    place = pulled(bundle, cached_source("crossvit_9_dagger"))
    assert bundle_named(Path("crossvit_9_dagger")) == bundle_named(Path("crossvit-9-dagger")) == place
    assert bundle_named(Path("/nowhere/crossvit_9_dagger")) == Path("/nowhere/crossvit_9_dagger")


def test_a_damaged_bundle_of_the_cache_says_the_command_that_makes_it_again(bundle: Path, tmp_path: Path) -> None:
    weights = tmp_path / "my weights.pth"
    weights.write_bytes(b"weights")
    place = pulled(bundle, cached_source(str(weights)), "--activation", "sigmoid")
    (place / "model.onnx").write_bytes(b"damaged")
    command = f"crossvit pull '{weights}' --activation sigmoid"
    with pytest.raises(BadBundle, match=rf"is not the file .* this makes it again: {re.escape(command)}\)"):
        open_bundle(place)


@pytest.mark.parametrize("content", ["{", "[]", '{"source": 1}', '{"source": "a", "options": 5, "files": {}}'])
def test_a_damaged_record_counts_as_none(bundle: Path, content: str) -> None:
    place = pulled(bundle, cached_source("crossvit_9_dagger"))
    assert read_pull_record(place) is not None
    (place.parent / "pulled.json").write_text(content)
    assert read_pull_record(place) is None
