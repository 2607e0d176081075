import os

import pytest

from app.configuration.settings import Settings
from app.distributed.worker_share import check_cluster_room, take_share
from app.errors import BadParameter
from app.machine.cpus import usable_cpus
from app.machine.machine_share import SHARE_VARIABLE
from app.machine.memory import usable_memory


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests set in the environment is gone after them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(SHARE_VARIABLE, "")


def test_threads_decoders_and_memory_fit_the_cpus_that_ray_counts() -> None:
    whole = usable_memory()
    take_share(1, 0)
    assert usable_cpus() == 1
    assert Settings().decoder_count == 1
    assert whole is not None
    memory = usable_memory()
    assert memory is not None
    assert memory * len(os.sched_getaffinity(0)) <= whole


@pytest.mark.parametrize(("gpus", "seen"), [(0, ""), (0.5, "0")])
def test_a_gpu_is_seen_by_workers_that_were_given_one(gpus: float, seen: str) -> None:
    take_share(1, gpus)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_workers_that_take_every_cpu_are_refused() -> None:
    check_cluster_room(workers=3, cpus=1, total=4)
    for workers, cpus in ((4, 1), (2, 2), (5, 1)):
        with pytest.raises(BadParameter, match="of the 4 CPUs of the cluster; at least one has to stay free"):
            check_cluster_room(workers, cpus, 4)
