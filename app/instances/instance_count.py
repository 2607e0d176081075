"""How many instances `--instances auto` starts."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from app.machine.cpus import usable_cpus
from app.machine.signals import outside

log = logging.getLogger(__name__)

_LEAST_CPUS = 8  # of a machine, for more than one instance
CPUS_OF_AN_INSTANCE = 4  # at least
_AS_FAST = 0.95  # of the highest rate


def chosen_count(arguments: Sequence[str]) -> int:
    """The number of instances for this machine: 1 if it is small or cannot be measured, else what is the fastest.

    A process of its own measures: this one imports no engine.
    """
    if usable_cpus() < _LEAST_CPUS:
        log.info("one instance: %d usable CPUs are too few for several", usable_cpus())
        return 1
    command = [sys.executable, "-P", "-m", "app.instances.count_measurement", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as measuring:
        outside.cleanup = partial(os.killpg, measuring.pid, signal.SIGKILL)
        answer, _ = measuring.communicate()
    outside.cleanup = lambda: None
    if measuring.returncode:
        log.warning("one instance: the rates of several could not be measured")
        return 1
    return int(answer)


def candidate_counts(cpus: int) -> list[int]:
    """The numbers of instances that are worth a try on so many CPUs."""
    return [
        count for count in (1 << power for power in range(11)) if count == 1 or cpus // count >= CPUS_OF_AN_INSTANCE
    ]


def fastest_count(rates: Mapping[int, float]) -> int:
    """The smallest number of instances whose rate is within 5 % of the highest."""
    highest = max(rates.values())
    return min(count for count, rate in rates.items() if rate >= _AS_FAST * highest)
