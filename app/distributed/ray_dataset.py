"""Classifies the images of a Ray dataset: a step of a user's own pipeline, with the answers of the service."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from app.bulk.bulk_options import DEFAULT_HELD_BYTES, MAX_TOP_K, BulkOptions
from app.bulk.bulk_run import started_rows, wanted_resolution
from app.bulk.result_rows import result_schema
from app.configuration.settings import Settings
from app.distributed.loop_thread import LoopThread
from app.distributed.ray_workers import for_workers
from app.distributed.worker_share import check_cluster_room, take_share
from app.errors import BadParameter
from bundle.discovery import bundle_at
from bundle.pulled_bundles import bundle_named
from bundle.reader import open_bundle

_BATCHES_AT_ONCE = 2  # the second one keeps the engine busy while the first one ends


def classify_dataset(
    dataset: Dataset,
    bundle: str | Path,
    *,
    bytes_column: str = "bytes",
    top_k: int = 5,
    resolution: int | None = None,
    embeddings: bool = False,
    workers: int = 1,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    batch_size: int = 64,
    keep_bytes: bool = False,
    settings: Settings | None = None,
) -> Dataset:
    """`dataset` with the columns of a bulk run's rows: index, wnid, label, score, predictions, problem, embedding.

    A bad image is a row with a problem. An engine that fails is an error of Ray Data's. BadParameter if the workers
    would take every CPU of the cluster; ValueError for arguments that cannot be, before anything is started.

    Args:
        dataset: has a column with the bytes of image files.
        bundle: its folder, the same on all machines, or the name of one that was pulled.
        bytes_column: the column; it is left out of the result unless `keep_bytes`.
        top_k: classes of each image.
        resolution: to classify at; None for the model's own.
        embeddings: whether to add the embeddings of both branches.
        workers: actors, each with an engine.
        cpus_per_worker: CPUs of each; its engine has so many threads.
        gpus_per_worker: GPUs of each.
        batch_size: images that an actor is given at once.
        keep_bytes: whether the result has the column with the bytes.
        settings: engine, precision and limits, by default those of the environment.
    """
    own = (settings or Settings()).model_copy(update={"bundle": bundle_named(Path(bundle)), "sources": []})
    _check_arguments(own, resolution, top_k, workers, cpus_per_worker, gpus_per_worker, batch_size)
    if not ray.is_initialized():
        ray.init()
    check_cluster_room(workers, cpus_per_worker, ray.cluster_resources().get("CPU", 0))
    return dataset.map_batches(
        BatchClassifier,
        fn_constructor_kwargs={
            "settings": for_workers(own, str(Path.cwd())),
            "options": BulkOptions(top_k=top_k, resolution=resolution, embeddings=embeddings),
            "bytes_column": bytes_column,
            "keep_bytes": keep_bytes,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
        },
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers, max_concurrent_calls_per_actor=_BATCHES_AT_ONCE, enable_true_multi_threading=True
        ),
        num_cpus=cpus_per_worker,
        num_gpus=gpus_per_worker,
        udf_modifying_row_count=False,
    )


def _check_arguments(
    settings: Settings, resolution: int | None, top_k: int, workers: int, cpus: float, gpus: float, batch_size: int
) -> None:
    bounds = [
        (1 <= top_k <= MAX_TOP_K, f"top_k is {top_k}; it has to be 1 to {MAX_TOP_K}"),
        (workers >= 1, f"workers is {workers}; it has to be 1 or more"),
        (cpus > 0, f"cpus_per_worker is {cpus:g}; it has to be more than 0"),
        (gpus >= 0, f"gpus_per_worker is {gpus:g}; it has to be 0 or more"),
        (batch_size >= 1, f"batch_size is {batch_size}; it has to be 1 or more"),
    ]
    for fits, message in bounds:
        if not fits:
            raise ValueError(message)
    loaded = open_bundle(bundle_at(settings.bundles, settings.default_model))
    try:
        wanted_resolution(loaded, resolution)
    except BadParameter as err:
        raise ValueError(str(err)) from err
    finally:
        loaded.close()


class BatchClassifier:
    """The actor of `classify_dataset`; its arguments are described there."""

    def __init__(
        self,
        *,
        settings: Settings,
        options: BulkOptions,
        bytes_column: str,
        keep_bytes: bool,
        cpus: float,
        gpus: float,
    ) -> None:
        take_share(cpus, gpus)
        self._bytes_column = bytes_column
        self._keep_bytes = keep_bytes
        self._loop = LoopThread()
        started = started_rows(settings, options, str(Path.cwd()), DEFAULT_HELD_BYTES)
        self._rows, _ = self._loop.enter(started)
        self._schema = result_schema(self._rows.embedding_width)

    def __del__(self) -> None:
        """End decoders and engine: Ray Data drops its actors' objects before the actors."""
        if hasattr(self, "_loop"):
            self._loop.close()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`batch` with the columns of its images' rows."""
        new = [field for field in self._schema if field.name != "id"]
        _check_columns(batch, self._bytes_column, [field.name for field in new])
        bodies = batch.column(self._bytes_column).to_pylist()
        rows = self._loop.run(self._rows.of_bytes(bodies))
        made = pa.Table.from_pylist(rows, self._schema)
        for field in new:
            batch = batch.append_column(field, made.column(field.name))
        return batch if self._keep_bytes else batch.drop_columns([self._bytes_column])


def _check_columns(batch: pa.Table, bytes_column: str, new: list[str]) -> None:
    names: list[Any] = batch.schema.names
    if bytes_column not in names:
        raise BadParameter(f"the dataset has no column {bytes_column!r}; it has {', '.join(names)}")
    if taken := [name for name in new if name in names]:
        raise BadParameter(
            f"the dataset has a column {taken[0]!r} already, which the answers have too: rename it before "
            f"(dataset.rename_columns({{{taken[0]!r}: …}}))"
        )
