"""An actor of Ray that writes parts of a bulk run."""

import threading

from app.bulk.bulk_options import BulkModel
from app.bulk.bulk_run import BulkPlan, StartedWriter, started_writer
from app.bulk.result_folder import PartCounts
from app.bulk.source_listing import Unit
from app.distributed.loop_thread import LoopThread
from app.distributed.worker_share import take_share


class BulkActor:
    """Starts its model at the first call, also after Ray restarted it. Its methods may be called from several threads.

    Args:
        plan: of the run.
        cpus: that Ray counts for the actor.
        gpus: likewise.
    """

    def __init__(self, plan: BulkPlan, cpus: float, gpus: float) -> None:
        self._plan = plan
        self._starting = threading.Lock()
        self._loop = LoopThread()
        self._started: StartedWriter | None = None
        take_share(cpus, gpus)

    def model(self) -> BulkModel:
        """What answers here. Raises as started_writer does."""
        return self._start().model

    def write(self, number: int, unit: Unit) -> PartCounts:
        """Write a part; raises as PartWriter.write does."""
        return self._loop.run(self._start().write(number, unit))

    def _start(self) -> StartedWriter:
        with self._starting:
            if self._started is None:
                self._started = self._loop.enter(started_writer(self._plan, lambda _: None))
            return self._started
