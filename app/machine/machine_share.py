"""The share of the machine's CPUs and memory of one of several instances.

It is a variable of the environment, so that an instance's workers inherit it as they inherit the affinity.
"""

import json
import os
from dataclasses import asdict, dataclass

SHARE_VARIABLE = "MACHINE_SHARE"  # without the prefix of the settings, which workers do not inherit


@dataclass(frozen=True)
class MachineShare:
    """What a process and its workers may use.

    Attributes:
        cpus: how many CPUs; may be a fraction, as a quota is.
        memory: bytes; None if the system does not tell how many there are.
    """

    cpus: float
    memory: int | None

    def environment(self) -> dict[str, str]:
        """The variable that gives this share to a process."""
        return {SHARE_VARIABLE: json.dumps(asdict(self))}


def inherited_share() -> MachineShare | None:
    """The share that this process was given; None for the whole machine."""
    given = os.environ.get(SHARE_VARIABLE)
    return MachineShare(**json.loads(given)) if given else None
