"""An actor of Ray that writes parts of a bulk run."""

import atexit
import threading
from contextlib import ExitStack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.bulk.bulk_options import BulkModel
from app.bulk.bulk_run import BulkPlan, StartedWriter, started_writer
from app.bulk.result_folder import PartCounts
from app.bulk.source_listing import Unit
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
        self._stack = ExitStack()
        self._started: tuple[BlockingPortal, StartedWriter] | None = None
        take_share(cpus, gpus)
        atexit.register(self._stack.close)

    def model(self) -> BulkModel:
        """What answers here. Raises as started_writer does."""
        return self._start()[1].model

    def write(self, number: int, unit: Unit) -> PartCounts:
        """Write a part; raises as PartWriter.write does."""
        portal, writer = self._start()
        return portal.call(writer.write, number, unit)

    def _start(self) -> tuple[BlockingPortal, StartedWriter]:
        with self._starting:
            if self._started is None:
                portal = self._stack.enter_context(start_blocking_portal())
                writer = started_writer(self._plan, lambda _: None)
                self._started = portal, self._stack.enter_context(portal.wrap_async_context_manager(writer))
            return self._started
