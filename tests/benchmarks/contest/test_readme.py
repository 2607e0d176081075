from pathlib import Path

import pytest

from benchmarks.contest.readme import BEGIN, END, replaced, update

ROOT = Path(__file__).parents[3]


def test_what_is_between_the_markers_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update(readme, "new\n")
    assert readme.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    update(readme, "new\n")
    assert readme.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_text_without_the_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replaced(text, "new")


def test_the_readme_of_this_project_has_the_markers() -> None:
    assert f"{BEGIN}\nonly this\n{END}" in replaced((ROOT / "README.md").read_text(), "only this")
