from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.contest import services
from benchmarks.contest.services import PEERS, Peer, Schedule, ServicePlayer, contest
from benchmarks.machine import ROOT

BUNDLE = Path("artifacts/crossvit_tiny")


def test_the_port_comes_last_in_every_command() -> None:
    assert PEERS["ours"].command(BUNDLE, "untrained")[-3:] == ["--bundle", str(BUNDLE), "--port"]
    lit = PEERS["litserve-onnxruntime"].command(BUNDLE, "untrained")
    assert lit[-3:] == ["onnxruntime", str(BUNDLE), "untrained"]
    assert PEERS["plain"].command(BUNDLE, "untrained")[-2:] == [str(BUNDLE), "untrained"]


def test_a_service_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(services.PEERS, "lit", Peer("Lit", "nowhere", needs="no_such_package"))
    player = ServicePlayer("lit", [])
    with ExitStack() as stack:
        player.start(stack, BUNDLE, "untrained")
    assert player.service.error is not None
    assert player.service.error.startswith("no_such_package is not installed (pip install")


def test_this_service_is_measured_in_all_rounds_of_the_schedule(bundle: Path) -> None:
    photos = sorted((ROOT / "export" / "data" / "photos").glob("*.jpg"))[:2]
    section = contest(bundle, "crossvit_tiny", "untrained", ["ours"], photos, Schedule(0.5, [(1, 2), (1,)], [(0.5,)]))
    (ours,) = section.services
    assert (ours.error, ours.errors()) == (None, 0)
    assert {clients: len(rounds) for clients, rounds in ours.closed.items()} == {1: 2, 2: 1}
    assert ours.fixed["0.5"][0].answers
    assert ours.fixed["0.5"][0].rate is not None
    assert ours.proportional_mb
