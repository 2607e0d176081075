"""The chart's ScaledObject scales up at once and does not flap, in a simulation that is near a recorded service."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.autoscaling.horizontal_autoscaler import SYNC_SECONDS
from benchmarks.autoscaling.simulate import LOADS, RATE, ScalingRun, scaled_object, simulate, with_triggers
from benchmarks.autoscaling.simulated_service import STEP_SECONDS, SimulatedReplica

SCRAPE_SECONDS = 15.0
STEPS, DAY, _, STEADY, LARGE = LOADS  # bursts are shorter than the start of a replica, so scaling is no help


@cache
def run(load: str, *triggers: str) -> ScalingRun:
    whole = scaled_object()
    chosen = with_triggers(whole, *triggers) if triggers else whole
    return simulate(chosen, LOADS[load], scrape_seconds=SCRAPE_SECONDS)


def test_it_scales_up_within_one_scrape_and_one_decision_of_an_overload() -> None:
    overload = 300
    first = next(at for at, number in run(STEPS).decisions if number > 1)
    assert overload < first <= overload + SCRAPE_SECONDS + SYNC_SECONDS


@pytest.mark.parametrize("load", [STEPS, DAY, STEADY, LARGE])
def test_it_does_not_flap(load: str) -> None:
    assert run(load).turns == 0


def test_it_ends_near_what_a_steady_load_needs_and_gives_back_what_it_does_not() -> None:
    last = run(STEADY).decisions[-1][1]
    assert last == 2  # 1.3 replicas at 70 %
    assert max(number for _, number in run(STEADY).decisions) <= 4  # waits that have ended are not multiplied
    assert run(STEPS).replicas_at(1800) <= 6  # 3 at 70 % are 4.3
    assert run(STEPS).decisions[-1][1] == 1


def test_waiting_images_alone_would_flap() -> None:
    """A queue says only whether there are too few replicas: once there are enough, it is empty."""
    assert run(STEADY, "waiting-images").turns > 2


def test_decoders_that_are_the_bottleneck_hold_their_replicas() -> None:
    """Engines that wait for pixels are never busy, so that only the decoders say how many replicas are enough."""
    assert run(LARGE).decisions[-1][1] == 2
    assert run(LARGE, "waiting-images", "wait-p95", "busy-engines").turns > 2


def test_few_requests_are_refused_and_only_until_new_replicas_are_ready() -> None:
    assert run(STEADY).refused < 0.01
    assert run(DAY).refused < 0.01
    assert run(STEPS).refused < 0.05


def test_the_simulated_replica_is_near_the_recorded_service(recording: dict[str, Any]) -> None:
    """The load is that of the recording; its last phase before a rest awaits the answers, so it ends a little later."""
    replica = SimulatedReplica(0.0, recording["rate"], 4, recording["max_queue"])
    assert recording["rate"] == RATE
    times = np.array(recording["times"])
    (series,) = [values for name, values in recording["series"].items() if name.startswith("crossvit_queue_images")]
    (engine,) = [values for name, values in recording["series"].items() if name.startswith("crossvit_inference")]
    ends = np.cumsum([seconds for _, seconds in recording["load"]])
    overload = slice(*np.searchsorted(times, [ends[0], ends[2]]))
    due, waiting, busy = 0.0, [], []
    samples = iter(times[: overload.stop])
    following = next(samples)
    for step in range(int(ends[2] / STEP_SECONDS)):
        now = step * STEP_SECONDS
        while following is not None and following <= now:
            replica.scrape(now)
            waiting.append(replica.scrapes[-1].waiting)
            busy.append(replica.scrapes[-1].engine_seconds)
            following = next(samples, None)
        phase = int(np.searchsorted(ends, now, side="right"))
        due += recording["load"][phase][0] * STEP_SECONDS
        while due >= 1:
            replica.arrive(now)
            due -= 1
        replica.step(now)
    assert np.abs(np.array(waiting) - np.array(series[: len(waiting)])).max() <= 8
    assert busy[-1] == pytest.approx(engine[len(busy) - 1], rel=0.1)
