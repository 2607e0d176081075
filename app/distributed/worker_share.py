"""What an actor of Ray, and the processes that it starts, may use of its machine: what the scheduler counts for it.

Ray limits no actor: without this each would start threads and decoders for all CPUs.
"""

import os

from app.errors import BadParameter
from app.machine.cpus import allowed_cpus
from app.machine.machine_share import MachineShare
from app.machine.memory import usable_memory


def take_share(cpus: float, gpus: float) -> None:
    """Let this process and those that it starts use `cpus` CPUs, as much of the memory, and a GPU only with `gpus`."""
    memory = usable_memory()
    share = None if memory is None else int(memory * min(1.0, cpus / allowed_cpus()))
    os.environ |= MachineShare(cpus, share).environment()
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def check_cluster_room(workers: int, cpus: float, total: float) -> None:
    """BadParameter if `workers` actors of `cpus` CPUs take all of `total`, or more.

    Reading tasks and the actors would wait for each other forever: Ray starts no task without a free CPU.
    """
    if workers * cpus >= total:
        raise BadParameter(
            f"{workers} workers with {cpus:g} CPUs each take {workers * cpus:g} of the {total:g} CPUs of the cluster; "
            "at least one has to stay free for what reads and hands out the work: use fewer workers, or fewer CPUs each"
        )
