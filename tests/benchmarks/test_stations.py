import cProfile
from pathlib import Path

from starlette.responses import JSONResponse

from app.telemetry.metrics import Metrics
from benchmarks.stations import EVENT_LOOP, station_shares


def test_shares_are_of_the_module_that_called_and_what_was_not_profiled_is_the_loops(tmp_path: Path) -> None:
    with cProfile.Profile() as profile:
        for _ in range(200):
            JSONResponse([{"score": 0.5}] * 50)  # most of the time is in the standard library's json
    profile.dump_stats(tmp_path / "answers")
    shares = station_shares(tmp_path / "answers", 0)
    assert shares["answer"] > 0.9
    assert abs(sum(shares.values()) - 1) < 1e-6
    assert station_shares(tmp_path / "answers", 1e6)[EVENT_LOOP] > 0.99


def test_each_station_has_its_own_time(tmp_path: Path) -> None:
    metrics = Metrics(list)
    with cProfile.Profile() as profile:
        for number in range(200):
            metrics.rejected.labels(str(number)).inc()
    profile.dump_stats(tmp_path / "counts")
    assert next(iter(station_shares(tmp_path / "counts", 0))) == "metrics"
