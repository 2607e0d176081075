"""A pool of Ray actors that makes the parts of a bulk run, and survives their loss.

A part is a pure function of its unit, and is there whole or not at all: so a part whose actor was lost is made again by
the actor that Ray starts in its place, and an actor that was only thought lost does no harm.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from app.bulk.bulk_options import BulkModel
from app.bulk.bulk_run import BulkPlan, BulkWorkers, OnRows, StartWorkers
from app.bulk.result_folder import PartCounts
from app.bulk.row_maker import UNITS_AT_ONCE
from app.bulk.source_listing import Unit
from app.configuration.settings import Settings
from app.distributed.bulk_actor import BulkActor
from app.distributed.worker_share import check_cluster_room
from app.errors import BadParameter, EngineFailed
from bundle.bundle_errors import ExplainedError
from bundle.discovery import bundle_at

LOCAL = "local"

_CONNECT_SECONDS = 10
_RETRIES = 2  # of a part whose actor was lost
_OBJECT_STORE_BYTES = 100 << 20  # of a Ray that is started here; images do not go through it


@dataclass(frozen=True)
class RayPool:
    """Actors on a cluster.

    Attributes:
        address: of the cluster as `ray.init` takes it, or "local" to start one on this machine.
        workers: actors.
        cpus: of each.
        gpus: of each.
    """

    address: str
    workers: int
    cpus: int = 1
    gpus: float = 0


def ray_workers(pool: RayPool) -> StartWorkers:
    """What starts the actors of `pool` for a run. BadParameter if they would take every CPU of the cluster."""

    @asynccontextmanager
    async def start(plan: BulkPlan, on_rows: OnRows) -> AsyncIterator[BulkWorkers]:
        async with _connected(pool):
            first = _actor(pool, plan)
            actors = [first]
            try:
                model = await _result(first.model.remote())
                plan = replace(plan, settings=plan.settings.model_copy(update={"precision": model.precision}))
                actors += [_actor(pool, plan) for _ in range(pool.workers - 1)]
                yield _RayWorkers(actors, model, on_rows)
            finally:
                for actor in actors:
                    ray.kill(actor)

    return start


def for_workers(settings: Settings, base: str) -> Settings:
    """`settings` as actors on any machine take them: with one bundle, by its absolute path, and without keys."""
    path = Path(base, bundle_at(settings.bundles, settings.default_model)).absolute()
    keys: dict[str, Any] = {"api_keys": [], "admin_keys": [], "api_keys_file": None, "admin_keys_file": None}
    return settings.model_copy(update={"sources": [], "default_model": None, "bundle": path, **keys})


class _RayWorkers:
    def __init__(self, actors: list[Any], model: BulkModel, on_rows: OnRows) -> None:
        self.model = model
        self.at_once = UNITS_AT_ONCE * len(actors)
        self._on_rows = on_rows
        self._free = asyncio.Queue[Any]()
        for actor in actors * UNITS_AT_ONCE:
            self._free.put_nowait(actor)
        self._checked = {actors[0]}

    async def write(self, number: int, unit: Unit) -> PartCounts:
        actor = await self._free.get()
        try:
            await self._check(actor)
            counts: PartCounts = await _result(actor.write.remote(number, unit))
        except RayActorError as err:
            raise EngineFailed(
                f"the Ray actor of part {number} was lost {_RETRIES + 1} times, perhaps for want of memory: {err}"
            ) from err
        finally:
            self._free.put_nowait(actor)
        self._on_rows(counts.rows)
        return counts

    async def _check(self, actor: Any) -> None:
        """BadParameter if the actor's machine has another bundle at the same path."""
        if actor not in self._checked:
            model = await _result(actor.model.remote())
            if model != self.model:
                raise BadParameter(f"the machines of the cluster have different bundles {model.name} at the same path")
            self._checked.add(actor)


def _actor(pool: RayPool, plan: BulkPlan) -> Any:
    plan = replace(plan, settings=for_workers(plan.settings, plan.base))
    remote = ray.remote(BulkActor).options(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=-1,
        max_task_retries=_RETRIES,
        max_concurrency=UNITS_AT_ONCE,
    )
    return remote.remote(plan, pool.cpus, pool.gpus)


@asynccontextmanager
async def _connected(pool: RayPool) -> AsyncIterator[None]:
    """Be connected to the pool's cluster until the block ends; a Ray that runs in this process already is taken."""
    if ray.is_initialized():
        check_cluster_room(pool.workers, pool.cpus, ray.cluster_resources().get("CPU", 0))
        yield
        return
    _connect(pool)  # in the main thread, since Ray sets signal handlers
    try:
        check_cluster_room(pool.workers, pool.cpus, ray.cluster_resources().get("CPU", 0))
        yield
    finally:
        ray.shutdown()


def _connect(pool: RayPool) -> None:
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if pool.address == LOCAL:
        options |= {"num_cpus": pool.workers * pool.cpus + 1, "object_store_memory": _OBJECT_STORE_BYTES}
        options |= {"include_dashboard": False, "num_gpus": None}
    try:
        _check_listening(pool.address)
        kept = signal.getsignal(signal.SIGTERM)
        ray.init(address=pool.address, **options)
        signal.signal(signal.SIGTERM, kept)  # Ray's own handler would leave no sentence
    except (OSError, ValueError) as err:
        raise BadParameter(f"--ray {pool.address}: {err}") from err


def _check_listening(address: str) -> None:
    """OSError if nothing listens at `address`, if that is HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


async def _result(reference: Any) -> Any:
    """What a call of an actor returns, or raises there."""
    try:
        return await reference
    except RayTaskError as err:
        if isinstance(err.cause, ExplainedError | OSError):
            raise err.cause from err
        raise
