import json
from pathlib import Path

import pytest

from benchmarks.contest.readme import BEGIN, END
from benchmarks.explanations import explanations
from tests.support.pictures import encoded, scene

pytestmark = pytest.mark.exhaustive


def test_every_map_is_a_row_and_a_longer_run_continues(
    bundle: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, wnid in enumerate(["n01440764", "n01443537"] * 2):
        (tmp_path / "data" / wnid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / wnid / f"{number}.png").write_bytes(encoded(scene(260, 240, number)))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    out = tmp_path / "out"
    explanations([tmp_path / "data"], bundle, tiny_weights, limit=2, out=out, write=page)
    rows = [line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 6
    assert {"random", "contributions, both", "attention of the last fusion, both", "attention rollout, both"} <= set(
        rows
    )
    assert (out / "explanations.png").stat().st_size > 10_000
    assert capsys.readouterr().err.count("…") == 2
    explanations([tmp_path / "data"], bundle, tiny_weights, limit=3, out=out)
    assert capsys.readouterr().err.count("…") == 1
    assert len(json.loads((out / "explanations.json").read_text())["images"]) == 3
