"""Every promise of SECURITY.md, docs/kubernetes.md and docs/reliability.md names tests, and these exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def promises(document: str) -> dict[str, list[str]]:
    """The tests that the table of promises names, by the promise."""
    text = (ROOT / document).read_text()
    (table,) = re.findall(r"^\| promise \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return {row[0]: re.findall(r"`([\w./]+(?:\.py|/))", row[-1]) for row in rows}


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/kubernetes.md", "docs/reliability.md"])
def test_every_promise_is_shown_by_tests_that_exist(document: str) -> None:
    found = promises(document)
    assert len(found) >= 5
    for promise, names in found.items():
        assert names, promise
        for name in names:
            path = ROOT / (name if name.startswith("tests/") else f"tests/app/{name}")
            files = [path] if path.is_file() else list(path.rglob("test_*.py"))
            assert any("def test_" in file.read_text() for file in files), (promise, name)
