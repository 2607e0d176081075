"""Sources become bundles, by a stand-in for the program that makes them; what it makes is a real bundle."""

import shutil
from pathlib import Path

import pytest

from app.errors import PullFailed
from app.pulling.source_bundles import bundles_of_sources
from bundle.bundle_errors import BadBundle
from bundle.cached_source import BadSource
from tests.support.stand_in_pull import StandInPull, stand_in_for_pull


@pytest.fixture
def pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> StandInPull:
    return stand_in_for_pull(tmp_path, monkeypatch, bundle)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "finetuned.pth"
    path.write_bytes(b"weights")
    return path


def test_a_bundle_and_a_folder_of_bundles_are_served_as_they_are(
    bundle: Path, pull: StandInPull, said: list[str]
) -> None:
    assert bundles_of_sources([str(bundle)], [], said.append) == [bundle]
    assert bundles_of_sources([str(bundle.parent)], [], said.append) == [bundle.parent]
    assert (pull.calls, said) == ([], [])


def test_a_network_is_made_once_and_found_at_later_starts(pull: StandInPull, said: list[str], tmp_path: Path) -> None:
    (made,) = bundles_of_sources(["crossvit_9_dagger"], [], said.append)
    assert (made.name, made.is_relative_to(tmp_path / "cache" / "crossvit")) == ("crossvit_9_dagger", True)
    assert said == ["crossvit_9_dagger: making the bundle of crossvit_9_dagger"]
    assert bundles_of_sources(["crossvit-9-dagger"], [], said.append) == [made]
    assert [call.split(" nice")[0] for call in pull.calls] == ["crossvit_9_dagger --if-changed"]


def test_options_are_kept_until_others_are_given(
    pull: StandInPull, said: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("rose\n")
    labels = ["--labels", str(tmp_path / "classes.txt")]
    for options in (labels, [], labels, ["--activation", "sigmoid"]):
        bundles_of_sources([str(checkpoint)], options, said.append)
    checkpoint.write_bytes(b"further trained")
    bundles_of_sources([str(checkpoint)], [], said.append)
    assert [call.partition(" --if-changed ")[2].split(" nice")[0] for call in pull.calls] == [
        " ".join(labels),
        " ".join([*labels, "--activation sigmoid"]),
        " ".join([*labels, "--activation sigmoid"]),
    ]


def test_a_bundle_with_8_bits_stays_and_a_start_does_not_wait_for_new_ones(
    pull: StandInPull, said: list[str], checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_INT8", str(bundle))
    bundles_of_sources([str(checkpoint)], ["--quantize", "int8"], said.append)
    bundles_of_sources([str(checkpoint)], [], said.append)
    assert len(pull.calls) == 1
    checkpoint.write_bytes(b"further trained")
    bundles_of_sources([str(checkpoint)], [], said.append)
    assert "--quantize" not in pull.calls[1]


def test_a_checkpoint_that_cannot_be_made_into_a_bundle_is_refused_also_if_it_once_could(
    pull: StandInPull, said: list[str], checkpoint: Path
) -> None:
    bundles_of_sources([str(checkpoint)], [], said.append)
    checkpoint.write_bytes(b"damaged")
    pull.does("fails")
    with pytest.raises(PullFailed, match=r"finetuned\.pth cannot be served: no bundle of it could be made"):
        bundles_of_sources([str(checkpoint)], [], said.append)


def test_a_hub_that_is_away_leaves_the_bundle_that_was_made_before(pull: StandInPull, said: list[str]) -> None:
    pull.does("fails")
    with pytest.raises(PullFailed, match="hf:me/flowers cannot be served"):
        bundles_of_sources(["hf:me/flowers"], [], said.append)
    pull.does("makes")
    made = bundles_of_sources(["hf:me/flowers"], [], said.append)
    pull.does("is misused")
    with pytest.raises(PullFailed, match="hf:me/flowers cannot be served"):
        bundles_of_sources(["hf:me/flowers"], [], said.append)
    pull.does("fails")
    with pytest.raises(PullFailed, match="hf:me/flowers cannot be served"):
        bundles_of_sources(["hf:me/flowers"], ["--activation", "sigmoid"], said.append)  # the bundle has others
    assert bundles_of_sources(["hf:me/flowers"], [], said.append) == made
    assert (
        said[-1]
        == "warning: hf:me/flowers could not be made anew, as said above; its bundle is served as it was made before"
    )


def test_two_sources_of_one_name_are_refused(pull: StandInPull, said: list[str], bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other" / bundle.name)
    with pytest.raises(BadBundle, match=rf"two models would be called {bundle.name}: {bundle} and {other}; rename"):
        bundles_of_sources([str(bundle), str(other)], [], said.append)
    assert pull.calls == []


@pytest.mark.usefixtures("pull")
def test_what_is_no_source_is_refused_before_anything_is_made(said: list[str]) -> None:
    with pytest.raises(BadSource, match="the nearest: crossvit_18_dagger"):
        bundles_of_sources(["crossvit_9_dagger", "crossvit_18_dager"], [], said.append)
    assert said == []
