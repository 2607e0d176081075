"""OpenVINO on the CPU."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino
from numpy.typing import NDArray

from app.engines.batch_splitting import BatchSplitter
from app.engines.batch_timing import known_seconds, least_seconds, worthwhile_batch
from app.engines.cpu.openvino_graph import without_identities
from app.engines.interface import EngineFiles, ReadGraph, Store, StoredFile
from app.machine.cpus import allowed_cpus, usable_cpus
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs

_core = openvino.Core()
# Two threads that need OpenVINO's table of NumPy's types for the first time wait for each other forever: one makes it
# and wants Python's lock, the other has the lock and waits for the table. Here it is made in one.
openvino.Type.u8.to_dtype()
_HAS_BF16 = "BF16" in _core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
_PRECISIONS = {  # the graph, and the precision of its floating point; the one that is likely the fastest first
    "int8-bf16": ("int8", "bf16"),
    "int8": ("int8", "f32"),
    "bf16": ("f32", "bf16"),
    "f32": ("f32", "f32"),
}
PRECISIONS = tuple(name for name, (_, floating) in _PRECISIONS.items() if floating != "bf16" or _HAS_BF16)

_FEW_CPUS = 4
_LARGEST_BATCH = 32
_REQUESTS_PER_STREAM = 2  # so that no stream waits for the next request


class OpenVinoEngine:
    """Two compiled models for each side: one image on all cores, and several side by side on a core or a few each.

    The first has the shortest wait. The second gives more images a second, since its cores need not wait for each other
    in every layer. Which of them is quicker for a number of images is measured; `store` keeps that, and the compiled
    models.
    """

    name = "openvino"

    def __init__(self, graph: ReadGraph, precision: str, store: Store | None = None) -> None:
        self.precision = precision
        self.batch = 1
        self._graph = graph
        self._store = store
        self._sides: dict[int, _Side] = {}
        self._kept: list[StoredFile] = []  # imported models may read their weights from these files

    def load(self, side: int) -> None:
        if side in self._sides:
            return
        cpus = usable_cpus()
        models = [("LATENCY", 1)]
        if cpus > 1:  # two images a core are 6 % faster than one on two cores; on many, one each fills them sooner
            models.append(("THROUGHPUT", 2 if cpus <= _FEW_CPUS else 1))
        with ThreadPoolExecutor(len(models)) as threads:  # compiling or importing a model keeps one core busy
            compiled = threads.map(lambda model: self._compiled(side, *model, cpus=cpus), models)
        loaded = _Side(*compiled)
        loaded.cut_by(known_seconds(self._store, f"openvino-{self.precision}-{side}-seconds", loaded.measured))
        self._sides[side] = loaded
        for kept in self._kept:
            kept.release()  # the models have copied nearly all of it, and change nothing in it
        self.batch = worthwhile_batch(
            {images: loaded.buckets.seconds(images) for images in range(1, max(_LARGEST_BATCH, loaded.bucket) + 1)}
        )

    def run(self, images: Images) -> Outputs:
        return self._sides[images.shape[1]].run(images)

    def close(self) -> None:
        self._sides.clear()
        self._kept.clear()

    def _compiled(self, side: int, hint: str, images: int, *, cpus: int) -> openvino.CompiledModel:
        options: dict[str, object] = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_NUM_THREADS": cpus,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision][1],
        }
        if cpus < allowed_cpus():
            options["ENABLE_CPU_PINNING"] = False  # a quota names no CPUs: other processes would pin to the same ones
        name = f"openvino-{self.precision}-{side}-compiled-{images}-{hint}"
        kept = None if self._store is None else self._store.read(name)
        if kept is not None:
            self._kept.append(kept)
            return _core.import_model(openvino.Tensor(kept.content, shared_memory=True), "CPU", options)
        model = _core.read_model(self._graph())
        model.reshape({INPUT: [images, side, side, 3]})
        without_identities(model)
        compiled = _core.compile_model(model, "CPU", options)
        if self._store is not None:
            self._store.write(name, compiled.export_model().getvalue())
        return compiled


class _Side:
    """Runs images of one side, once `cut_by` was given the seconds of each bucket."""

    def __init__(self, alone: openvino.CompiledModel, together: openvino.CompiledModel | None = None) -> None:
        self._alone = alone.create_infer_request()
        self._shape = tuple(alone.input(0).shape)[1:]
        self._classes = alone.output(0).shape[1]
        self._each, self.bucket = 0, 1
        if together is not None:
            streams = together.get_property("NUM_STREAMS")
            self._each = together.input(0).shape[0]
            self.bucket = streams * self._each
            self._queue = openvino.AsyncInferQueue(together, _REQUESTS_PER_STREAM * streams)
            self._queue.set_callback(_copy)

    def measured(self) -> dict[int, float]:
        """The seconds of one image, and of as many as fill the streams; each is run at least once."""
        images = np.zeros((self.bucket, *self._shape), np.uint8)
        outputs = self._empty(self.bucket)
        seconds = {1: least_seconds(lambda: self._run_alone(images[:1], outputs))}
        if self.bucket > 1:
            seconds[self.bucket] = least_seconds(lambda: self._run_together(images, outputs))
        return seconds

    def cut_by(self, seconds: Mapping[int, float]) -> None:
        self.buckets = BatchSplitter(seconds)

    def run(self, images: Images) -> Outputs:
        outputs = self._empty(len(images))
        together = sum(piece.count for piece in self.buckets.pieces(len(images)) if piece.bucket > 1)
        if together:
            self._run_together(images[:together], outputs)
        for index in range(together, len(images)):
            self._run_alone(images[index : index + 1], outputs[:, index : index + 1])
        return outputs

    def _empty(self, count: int) -> Outputs:
        return np.empty((len(OUTPUTS), count, self._classes), np.float32)

    def _run_alone(self, image: Images, outputs: Outputs) -> None:
        self._alone.infer([_tensor(image)])
        _copy(self._alone, outputs)

    def _run_together(self, images: Images, outputs: Outputs) -> None:
        for start in range(0, len(images), self._each):
            rows = images[start : start + self._each]
            missing = self._each - len(rows)
            if missing:
                rows = np.concatenate([rows, np.zeros((missing, *self._shape), np.uint8)])
            # The queue holds what it runs; a padded copy, the last of all, lives until wait_all in `rows`.
            self._queue.start_async([_tensor(rows)], outputs[:, start : start + self._each])
        self._queue.wait_all()


def _tensor(images: NDArray[np.uint8]) -> openvino.Tensor:
    """The images where they are, without a copy."""
    return openvino.Tensor(np.ascontiguousarray(images), shared_memory=True)


def _copy(request: openvino.InferRequest, outputs: Outputs) -> None:
    for index, output in enumerate(outputs):
        output[...] = request.get_output_tensor(index).data[: len(output)]


def offer_openvino(files: EngineFiles, _: int) -> Iterator[OpenVinoEngine]:
    for precision in PRECISIONS:
        graph = _PRECISIONS[precision][0]
        if graph in files.graphs:
            yield OpenVinoEngine(files.graphs[graph], precision, files.store)
