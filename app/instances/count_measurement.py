"""Finds the number of instances that gives the most images per second on this machine, and remembers it.

Run as `python -m app.instances.count_measurement [OPTION ...]`, with the options of `crossvit serve`; it prints the
number.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing

from app.configuration.settings import Settings
from app.engines.compiled_cache import CompiledCache, open_cache
from app.engines.registry import ON_CPU
from app.instances.instance_count import CPUS_OF_AN_INSTANCE, candidate_counts, fastest_count
from app.machine.core_shares import core_shares, equal_share
from app.machine.cpus import usable_cpus
from app.telemetry import logs
from bundle.discovery import bundle_at
from bundle.reader import open_bundle

log = logging.getLogger(__name__)


class ProbeEnded(Exception):
    """A process that was to measure has ended; the log says why."""


def main() -> None:
    """Print the number of instances."""
    settings = Settings.from_command_line(sys.argv[1:])
    logs.configure(settings.log_level, settings.log_format)
    print(best_count(settings, sys.argv[1:], candidate_counts(usable_cpus())))


def best_count(settings: Settings, arguments: Sequence[str], candidates: Sequence[int]) -> int:
    """The fastest of `candidates`, of which 1 is the first, measured now or at an earlier start.

    On a GPU nothing is measured: the instances share it, and its engine is not what keeps their CPUs busy.
    """
    store, note = _cache(settings), f"instances-{settings.engine}-{settings.precision}-{settings.max_batch}"
    if store is not None and (remembered := store.read_json(note)) in candidates:
        log.info("%d instances, as measured at an earlier start", remembered)
        return int(remembered)
    rates: dict[int, float] = {}
    for count in candidates:
        engine, rates[count] = measured_rate(count, arguments)
        log.info("%d instances: %.1f images/s together, %s", count, rates[count], engine)
        if engine not in ON_CPU:
            return max(1, usable_cpus() // CPUS_OF_AN_INSTANCE)
    best = fastest_count(rates)
    if store is not None:
        store.write_json(note, best)
    return best


def measured_rate(count: int, arguments: Sequence[str]) -> tuple[str, float]:
    """The engine that serves on a share of the machine, and the images per second of `count` of them at once.

    Raises ProbeEnded.
    """
    shares = core_shares(count) or [set[int]()] * count
    environment = os.environ | equal_share(count).environment()
    with ExitStack() as ending:
        probes = [_Probe(sorted(shares[0]), arguments, environment, ending)]
        engine = json.loads(probes[0].line())["engine"]  # it compiles for the others too
        probes += [_Probe(sorted(share), arguments, environment, ending) for share in shares[1:]]
        for probe in probes[1:]:
            probe.line()
        for probe in probes:
            probe.go()
        return engine, sum(float(probe.line()) for probe in probes)


class _Probe:
    """A process of app.instances.rate_probe, which `ending` ends."""

    def __init__(
        self, cpus: Sequence[int], arguments: Sequence[str], environment: dict[str, str], ending: ExitStack
    ) -> None:
        command = [sys.executable, "-P", "-m", "app.instances.rate_probe", json.dumps(cpus), *arguments]
        self._process = ending.enter_context(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
            )
        )
        ending.callback(self._process.kill)

    def line(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise ProbeEnded(f"status {self._process.wait()}")

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")


def _cache(settings: Settings) -> CompiledCache | None:
    bundle = open_bundle(bundle_at(settings.bundles, settings.default_model))
    with closing(bundle):
        return open_cache({precision: bundle.graph_sha256(precision) for precision in bundle.graphs})


if __name__ == "__main__":
    main()
