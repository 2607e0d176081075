"""The programs that measure a running service, for a moment each: that they print what they promise."""

import shutil
from pathlib import Path

import pytest

from benchmarks.flood import flood
from benchmarks.grpc_cost import grpc_cost
from benchmarks.machine import ROOT
from benchmarks.reliability import overload, soak
from benchmarks.roofline import roofline
from benchmarks.screenshots import screenshots
from benchmarks.service_cost import service_cost
from tests.support.browser import NoBrowser

PHOTOS = ROOT / "export" / "data" / "photos"

pytestmark = pytest.mark.exhaustive


def test_service_cost_prints_rounds_stages_and_starts(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service_cost(PHOTOS, bundle, "f32", clients=2, rounds=1, seconds=0.2, starts=1)
    printed = capsys.readouterr().out
    for column in ("added, ms", "% of what the cores could", "rest in the service", "ready after, s"):
        assert column in printed


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk sends the load")
def test_service_cost_of_the_null_engine_prints_costs_stations_and_ratios(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service_cost(PHOTOS, bundle, rounds=1, seconds=1, engine="null", null_clients="2", tiny=True)
    printed = capsys.readouterr().out
    for word in ("front end, ms", "/v2 tensor", "batch of 4", "hand to decoder", "metrics"):
        assert word in printed
    service_cost(PHOTOS, bundle, rounds=1, seconds=1, engine="null", null_clients="2", other=ROOT)
    assert "medians of the rounds' ratios" in capsys.readouterr().out


def test_grpc_cost_compares_both_protocols(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grpc_cost(PHOTOS, bundle, clients="2", rounds=1, seconds=0.2)
    printed = capsys.readouterr().out
    for word in ("pixels", "photographs", "HTTP", "gRPC", "front end, ms"):
        assert word in printed


def test_soak_counts_answers_and_overload_refuses(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak(PHOTOS, bundle, requests=40, clients=4)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in lines) == 13
    assert "200: " in lines[-1]
    overload(PHOTOS, bundle, times=20, seconds=2, max_queue=32)
    assert "429: " in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk sends the load")
def test_flood_prints_a_row_for_each_kind(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flood(PHOTOS, bundle, seconds=2, clients=20, kinds="raw,slow", engine="null", null_rate=20)
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines()[-4:] if line.startswith("| ")] == ["raw", "slow"]


def test_roofline_prints_a_rate_for_each_precision(capsys: pytest.CaptureFixture[str]) -> None:
    roofline("crossvit_tiny")
    printed = capsys.readouterr().out
    assert all(f"| {name}" in printed for name in ("f32", "bf16", "int8, uint8 out", "int8, int32 out"))


def test_screenshots_are_small_pictures_of_the_page(bundle: Path, tmp_path: Path) -> None:
    try:
        screenshots(bundle, tmp_path)
    except NoBrowser as err:
        pytest.skip(str(err))
    assert {path.name for path in tmp_path.iterdir()} == {"light.webp", "dark.webp", "phone.webp"}
    assert all(10_000 < path.stat().st_size < 200_000 for path in tmp_path.iterdir())
