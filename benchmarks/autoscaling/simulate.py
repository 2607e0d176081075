"""python -m benchmarks.autoscaling.simulate: what the chart's ScaledObject does under loads, in a simulation.

The decisions are those of Kubernetes' autoscaler, the thresholds those of the rendered chart, and the replicas a model
of the service. A cluster, its scheduler and its network are not part of it.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.autoscaling.horizontal_autoscaler import SYNC_SECONDS, autoscaler_of
from benchmarks.autoscaling.simulated_service import STEP_SECONDS, SimulatedReplica, metrics
from benchmarks.command_line import run
from benchmarks.markdown import print_table
from deploy.chart import rendered

LoadShape = Callable[[float], float]  # requests a second at a time

RATE = 20.0  # images that one replica gives a second


@dataclass(frozen=True)
class ReplicaLoad:
    """Requests a second at a time, for so many seconds, and what they are for a replica that gives RATE of them.

    Attributes:
        engine_rate: images that the engine alone would give a second.
        decode_seconds: of an image, in one of two decoders.
    """

    shape: LoadShape
    seconds: float
    engine_rate: float = RATE
    decode_seconds: float = 0.0


LOADS: dict[str, ReplicaLoad] = {
    "steps: 20 %, 300 %, 20 % of a replica": ReplicaLoad(lambda t: RATE * (3 if 300 <= t < 1800 else 0.2), 3000),
    "a day: up to 6 replicas and back": ReplicaLoad(lambda t: RATE * (0.2 + 5.8 * np.sin(np.pi * t / 3600) ** 2), 3600),
    "20 s of 400 % every 4 min": ReplicaLoad(lambda t: RATE * (4 if t % 240 < 20 else 0.3), 3000),
    "steady, 130 % of a replica": ReplicaLoad(lambda _: RATE * 1.3, 3000),
    "steady, 130 % of a replica, of large images": ReplicaLoad(
        lambda _: RATE * 1.3, 3000, engine_rate=15 * RATE, decode_seconds=2 / RATE
    ),
}


@dataclass
class ScalingRun:
    """What happened.

    Attributes:
        decisions: the time, and the number of replicas from then on, of each change.
        refused: the share of the requests.
        used: replicas that ran, on average; `needed` at full use.
    """

    decisions: list[tuple[float, int]]
    refused: float
    used: float
    needed: float

    @property
    def turns(self) -> int:
        """How often the number of replicas went down and then up again."""
        changes = np.sign(np.diff([number for _, number in self.decisions]))
        return int(sum((changes[:-1] < 0) & (changes[1:] > 0)))

    def replicas_at(self, time: float) -> int:
        return [number for at, number in self.decisions if at <= time][-1]


def simulate(
    scaled_object: Mapping[str, Any],
    load: ReplicaLoad,
    *,
    start_seconds: float = 45.0,
    scrape_seconds: float = 15.0,
    window: float = 60.0,
    batch: int = 4,
    bound: int = 64,
    seed: int = 0,
) -> ScalingRun:
    """Let `load` come to replicas that the ScaledObject scales; a new one is ready after `start_seconds`."""
    autoscaler, random = autoscaler_of(scaled_object), np.random.default_rng(seed)
    seconds = load.seconds

    def replica_from(ready_at: float) -> SimulatedReplica:
        return SimulatedReplica(ready_at, load.engine_rate, batch, bound, load.decode_seconds)

    replicas = [replica_from(0.0) for _ in range(autoscaler.least)]
    ended: list[SimulatedReplica] = []
    decisions, replica_seconds, work = [(0.0, len(replicas))], 0.0, 0.0
    for step in range(int(seconds / STEP_SECONDS)):
        now = step * STEP_SECONDS
        ready = [replica for replica in replicas if replica.ready_at <= now]
        for _ in range(random.poisson(load.shape(now) * STEP_SECONDS)):
            ready[random.integers(len(ready))].arrive(now)
        for replica in replicas:
            replica.step(now)
        replica_seconds += len(replicas) * STEP_SECONDS
        work += load.shape(now) * STEP_SECONDS
        if _every(scrape_seconds, step):
            for replica in ready:
                replica.scrape(now)
        if _every(SYNC_SECONDS, step):
            wanted = autoscaler.decide(now, len(replicas), metrics(replicas, now, window))
            if wanted != len(replicas):
                decisions.append((now, wanted))
            new = [replica_from(now + start_seconds) for _ in range(wanted - len(replicas))]
            ended += replicas[wanted:]
            replicas = replicas[:wanted] + new
    every = replicas + ended
    refused, answered = sum(each.refused for each in every), sum(each.answered for each in every)
    return ScalingRun(decisions, refused / (refused + answered), replica_seconds / seconds, work / RATE / seconds)


def _every(seconds: float, step: int) -> bool:
    return step % round(seconds / STEP_SECONDS) == 0


def scaled_object(**keda: Any) -> dict[str, Any]:
    """The chart's own, with one replica at least."""
    values = {"autoscaling": {"kind": "keda", "minReplicas": 1, "keda": keda}}
    (found,) = [manifest for manifest in rendered(values) if manifest["kind"] == "ScaledObject"]
    return found


def with_triggers(whole: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The ScaledObject with these triggers only."""
    part: dict[str, Any] = copy.deepcopy(dict(whole))
    part["spec"]["triggers"] = [trigger for trigger in part["spec"]["triggers"] if trigger["name"] in names]
    return part


def simulations(
    seeds: Annotated[int, typer.Option(help="runs of each load, of which the table has the means")] = 5,
) -> None:
    """Print a row for each load and choice of triggers."""
    whole = scaled_object()
    choices = {
        "all four": whole,
        "waiting images alone": with_triggers(whole, "waiting-images"),
        "all but busy-decoders": with_triggers(whole, "waiting-images", "wait-p95", "busy-engines"),
    }
    rows = []
    for name, load in LOADS.items():
        for choice, chosen in choices.items():
            runs = [simulate(chosen, load, seed=seed) for seed in range(seeds)]
            rows.append(
                {
                    "load": name,
                    "triggers": choice,
                    "most replicas": max(number for each in runs for _, number in each.decisions),
                    "down and up again": f"{np.mean([each.turns for each in runs]):.1f}",
                    "refused, %": f"{100 * np.mean([each.refused for each in runs]):.1f}",
                    "replicas used": f"{np.mean([each.used for each in runs]):.1f}",
                    "needed": f"{runs[0].needed:.1f}",
                }
            )
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    run(simulations, program="benchmarks.autoscaling.simulate")
