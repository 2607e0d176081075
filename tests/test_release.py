"""The version, the images' labels, the CHANGELOG and git's tag agree; docs/release.md has the steps."""

import re
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def faults(version: str, changelog: str, tags: Iterable[str]) -> list[str]:
    """What does not agree for a commit of `version` with `tags`."""
    headings = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    released = [name for name, _ in headings if name != "Unreleased"]
    found = [
        f"CHANGELOG: no date: {name}" for name, date in headings[1:] if not re.fullmatch(r" - \d{4}-\d\d-\d\d", date)
    ]
    if not headings or headings[0] != ("Unreleased", ""):
        found.append("CHANGELOG: the first section is not [Unreleased]")
    if released != sorted(released, key=numbers, reverse=True) or any(numbers(r) > numbers(version) for r in released):
        found.append(f"CHANGELOG: sections {released} are not in order up to {version}")
    for tag in tags:
        if tag != f"v{version}":
            found.append(f"the tag {tag} is not v{version}")
        if version not in released:
            found.append(f"CHANGELOG: no section for {version}, which is tagged")
    return found


def tags_here() -> list[str]:
    """The tags of versions that the commit has."""
    command = ["git", "tag", "--points-at", "HEAD", "v*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()


def test_version_changelog_and_tag_agree() -> None:
    assert faults(VERSION, CHANGELOG, tags_here()) == []


def test_the_images_are_of_this_version() -> None:
    files = list((ROOT / "docker").glob("*.Dockerfile"))
    assert len(files) == 2
    for file in files:
        assert f'image.version="{VERSION}"' in file.read_text()


UNRELEASED = "## [Unreleased]\n"
RELEASED = f"{UNRELEASED}\n## [0.2.0] - 2027-01-31\n\n## [0.1.0] - 2026-12-01\n"


@pytest.mark.parametrize(
    ("version", "changelog", "tags", "fault"),
    [
        ("0.2.0", RELEASED, ["v0.2.1"], "the tag v0.2.1 is not v0.2.0"),
        ("0.3.0", RELEASED, ["v0.3.0"], "no section for 0.3.0"),
        ("0.1.0", RELEASED, [], "are not in order up to 0.1.0"),
        ("0.2.0", RELEASED.replace(" - 2027-01-31", ""), ["v0.2.0"], "no date: 0.2.0"),
        ("0.2.0", RELEASED.removeprefix(UNRELEASED), ["v0.2.0"], r"the first section is not \[Unreleased\]"),
    ],
)
def test_a_disagreement_is_found(version: str, changelog: str, tags: list[str], fault: str) -> None:
    (said,) = faults(version, changelog, tags)
    assert re.search(fault, said)


def test_a_release_and_the_commits_after_it_have_no_fault() -> None:
    assert (
        faults("0.2.0", RELEASED, ["v0.2.0"]) == faults("0.2.0", RELEASED, []) == faults("0.1.0", UNRELEASED, []) == []
    )
