"""The worker's side of an engine: one resolution of a bundle. `app.engines.process.launch` calls it."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from app.engines.compiled_cache import CompiledCache, cpu_model
from app.engines.gpu.device import TakesGpuImages
from app.engines.gpu_jpeg import jpeg_decoder
from app.engines.interface import Engine, EngineFiles, EngineRefused, TensorRTPlan
from app.engines.selection import ON_CPU, choose
from app.machine.cpus import allowed_cpus, usable_cpus
from app.processes.channel import Arrays, Values
from app.processes.shared_buffer import SharedBuffer
from bundle.bundle_errors import BadBundle
from bundle.golden import Golden
from bundle.plan_manifest import PlanManifest
from bundle.tensors import OUTPUTS
from model.spec import Preprocessing

log = logging.getLogger(__name__)

_COMPILED = 1 << 20  # bytes that are kept; notes take fewer
# Part of the compiled cache's key. Raise it with every change to what the CPU engines compile, measure or store.
CACHE_FORMAT = 1


class EngineHost:
    """Runs what is in files that are open.

    `graphs` has the sha256 of each graph by its precision, `plans` the passport of each plan as JSON; `agreement`,
    `unfit` and `command` are those of app.engines.interface.EngineFiles. The open `files` are those of the graphs and of the
    plans in that order, one to which the names of engines that are tried are written, and that of the tray on which
    images to run lie.
    """

    def __init__(
        self,
        graphs: Mapping[str, str],
        plans: Sequence[str],
        unfit: Sequence[str],
        command: str,
        agreement: Mapping[str, float],
        files: Sequence[int],
    ) -> None:
        *contents, self._trail, tray = files
        of_graphs, of_plans = contents[: len(graphs)], contents[len(graphs) :]
        self._store = _store(graphs)
        self._files = EngineFiles(
            {
                precision: partial(_graph, file, digest)
                for (precision, digest), file in zip(graphs.items(), of_graphs, strict=True)
            },
            [
                _plan(PlanManifest.model_validate_json(passport), file)
                for passport, file in zip(plans, of_plans, strict=True)
            ],
            unfit,
            command,
            agreement,
            self._store,
        )
        self._tray = SharedBuffer(tray)
        self._engine: Engine | None = None
        self._jpegs: jpeg_decoder.JpegDecoder | None = None

    def start(
        self,
        engine: str,
        precision: str,
        prefer: Sequence[str] | None,
        skip: Mapping[str, str],
        images: NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> tuple[Values, Arrays]:
        """Choose the engine, see app.engines.selection: its name, precision and batch, what was refused, and the
        seconds of an image; and whether something was compiled, for which a next process would have no need.

        After what is preferred, that is what was found the best at an earlier start.
        """
        side = images.shape[1]
        name = f"choice-{side}-{engine}-{precision}"
        remembered = self._store and self._store.read_json(name)
        choice = choose(
            self._files,
            Golden(images, logits),
            engine,
            precision,
            prefer=[(pair[0], pair[1]) for pair in (prefer, remembered) if pair],
            skip=skip,
            on_try=lambda tried: _tell(self._trail, tried),
        )
        self._engine = choice.engine
        found = [self._engine.name, self._engine.precision]
        if self._store and self._engine.name in ON_CPU and found not in (prefer, remembered):
            if not choice.refused.keys() & set(ON_CPU):
                self._store.write_json(name, found)
            # What else was tried is not compiled for later.
            self._store.drop(f"*-{side}-compiled-*", but=f"{self._engine.name}-{self._engine.precision}-{side}-")
        compiled = self._store is not None and self._store.written > _COMPILED
        return [
            *(self._engine.name, self._engine.precision, self._engine.batch),
            *(choice.refused, choice.image_seconds, compiled),
        ], []

    def decode_jpegs(self, resize: int, crop: int, max_pixels: int) -> tuple[Values, Arrays]:
        """Let `run` take JPEGs too; why that cannot be, or None."""
        try:
            self._jpegs = jpeg_decoder.open_jpeg_decoder(Preprocessing(resize, crop), max_pixels)
        except EngineRefused as err:
            return [str(err)], []
        return [None], []

    def run(self, shape: Sequence[int], *bodies: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        """The logits of the images on the tray, which have that `shape`, then those of the JPEGs in `bodies` that could
        be decoded; the indices of these.
        """
        assert self._engine is not None
        images = self._tray.array(*shape)
        if not bodies:
            return [], [self._engine.run(images)]
        assert self._jpegs is not None
        decoded = self._jpegs.decode([body.tobytes() for body in bodies])
        if isinstance(self._engine, TakesGpuImages):
            outputs = [self._engine.run(images)] if len(images) else []
            if decoded:
                outputs.append(self._engine.run_on_gpu(self._jpegs.images(len(decoded))))
        else:
            images = np.concatenate([images, self._jpegs.pixels(len(decoded))])
            outputs = [self._engine.run(images)] if len(images) else []
        return [*decoded], [np.concatenate(outputs, axis=1) if outputs else np.empty((len(OUTPUTS), 0, 0), np.float32)]


def _store(graphs: Mapping[str, str]) -> CompiledCache | None:
    """For what is compiled from these graphs on this CPU with these versions; None where there is no place for it."""
    key = {
        "graphs": graphs,
        "format": CACHE_FORMAT,
        "cpu": cpu_model(),
        "cpus": [usable_cpus(), allowed_cpus()],
        "versions": {package: _version(package) for package in ("crossvit", "openvino", "onnxruntime")},
    }
    try:
        return CompiledCache(key)
    except EngineRefused as err:
        log.info("nothing is kept for the next start: %s", err)
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _graph(file: int, digest: str) -> bytes:
    graph = _content(file)
    if hashlib.sha256(graph).hexdigest() != digest:
        raise BadBundle("the bundle's graph was overwritten while it was served; export it again")
    return graph


def _plan(passport: PlanManifest, file: int) -> TensorRTPlan:
    def read() -> bytes:
        plan = _content(file)
        if hashlib.sha256(plan).hexdigest() != passport.plan_sha256:
            raise BadBundle(f"the plan for {passport.gpu} is not the one that its passport describes")
        return plan

    return TensorRTPlan(passport, read)


def _content(file: int) -> bytes:
    # By offset: other workers have the same open file.
    content = bytearray()
    while chunk := os.pread(file, 1 << 26, len(content)):
        content += chunk
    return bytes(content)


def _tell(trail: int, name: str) -> None:
    os.write(trail, f"{name}\n".encode())
