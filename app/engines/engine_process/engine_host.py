"""The worker's side of an engine process: one candidate for one resolution of a bundle.

`app.engines.engine_process.launch` calls it.
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.engines.compiled_cache import open_cache
from app.engines.engine_process.graph_files import checked_graph, file_content
from app.engines.interface import (
    Engine,
    EngineFiles,
    EngineRefused,
    OverlappingEngine,
    PendingOutputs,
    TensorRTPlan,
)
from app.engines.registry import ON_CPU, offered_engines
from app.processes.channel import Arrays, PendingResult, Values
from app.processes.shared_memory import SharedMemory
from bundle.bundle_errors import BadBundle, ExplainedError
from bundle.installation import install_command
from bundle.plan_manifest import PlanManifest
from bundle.scores import best_classes
from bundle.tensors import Images, Outputs
from model.spec import Activation

log = logging.getLogger(__name__)

_COMPILED_BYTES = 1 << 20  # a compiled model is larger than this, the notes of measurements are smaller
_LONGEST_REASON = 300
_LOWEST_PRIORITY = 19
_OVERLAPPING_CALLS = 2  # one computes while the images of the other are on their way


class EngineHost:
    """Lists the engines for files that are open, and runs one of them.

    Args:
        graphs: the sha256 of each graph by its precision.
        plans: the manifest of each plan as JSON.
        command: builds a plan for this resolution.
        side: of the images, in pixels.
        classes: of the network.
        activation: makes scores of logits.
        null_rate: as EngineFiles has it.
        background: as EngineProcess has it.
        files: open files: those of the graphs, those of the plans, and those of the memories that have the images.
    """

    def __init__(
        self,
        graphs: Mapping[str, str],
        plans: Sequence[str],
        command: str,
        side: int,
        classes: int,
        activation: Activation,
        null_rate: float,
        background: bool,
        files: Sequence[int],
    ) -> None:
        if background:
            os.nice(_LOWEST_PRIORITY)  # before the engine starts its threads, which inherit it
        remaining = iter(files)
        of_graphs, of_plans = list(islice(remaining, len(graphs))), list(islice(remaining, len(plans)))
        self._store = open_cache(graphs)
        self._files = EngineFiles(
            graphs={
                precision: partial(checked_graph, file, digest)
                for (precision, digest), file in zip(graphs.items(), of_graphs, strict=True)
            },
            plans=[
                _plan(PlanManifest.model_validate_json(manifest), file)
                for manifest, file in zip(plans, of_plans, strict=True)
            ],
            command=command,
            store=self._store,
            classes=classes,
            null_rate=null_rate,
        )
        self._side = side
        self._activation = activation
        self._memories = [SharedMemory(file=file) for file in remaining]
        self._offered: dict[str, list[Engine]] = {}
        self._engine: Engine | None = None

    def offers(self, name: str) -> tuple[Values, Arrays]:
        """The precisions of the engine called `name` here, the one that is likely the fastest first.

        Then why it is not installed, or why it is refused; None where that is not so.
        """
        try:
            engines = self._engines(name)
        except ImportError as err:
            extra = "cpu" if name in ON_CPU else "gpu"
            return [[], f"it is not installed ({err}); install it with {install_command(extra)}", None], []
        except EngineRefused as err:
            return [[], None, str(err)], []
        except Exception as err:  # a package that is installed, but broken
            log.exception("%s cannot be used", name)
            return [[], None, f"it cannot be used: {_short(err)}"], []
        return [[engine.precision for engine in engines], None, None], []

    def load(self, name: str, precision: str, images: NDArray[np.uint8]) -> tuple[Values, Arrays]:
        """Load the engine and run `images`; their logits.

        The values are its batch, the calls that may be on their way, the seconds of an image, and whether a model was
        compiled. Where the engine does not work, the reason stands in the place of the batch, and there are no logits.
        """
        try:
            engine = self._engine = next(one for one in self._engines(name) if one.precision == precision)
            engine.load(self._side)
            began = time.perf_counter()
            logits = engine.run(images)
            seconds = (time.perf_counter() - began) / len(images)
        except Exception as err:
            return [self._reason(err), 1, 0.0, False], []
        compiled = self._store is not None and self._store.written > _COMPILED_BYTES
        calls = _OVERLAPPING_CALLS if isinstance(engine, OverlappingEngine) else 1
        return [engine.batch, calls, seconds, compiled], [logits]

    def time_image(self) -> tuple[Values, Arrays]:
        """The seconds of an image in the engine's best batch, or the reason why it does not run."""
        assert self._engine is not None
        images = np.zeros((self._engine.batch, self._side, self._side, 3), np.uint8)
        try:
            self._engine.run(images)  # threads of the other engine, which wait for work for a while, keep cores busy
            began = time.perf_counter()
            self._engine.run(images)
        except Exception as err:
            return [self._reason(err)], []
        return [(time.perf_counter() - began) / len(images)], []

    def run(
        self, locations: Sequence[Sequence[int]], counts: Sequence[int], temperature: float
    ) -> tuple[Values, Arrays] | PendingResult:
        """The results for the images whose pixels are at `locations`, each the number of a memory and an offset.

        An image's count says how many of its best classes are wanted, and their indices and scores are returned; where
        it is 0 its logits are, in one array (outputs, images with a count of 0, classes). Scores are of the logits
        divided by `temperature`.
        """
        assert self._engine is not None
        scoring = _Scoring(self._activation, temperature)
        if isinstance(self._engine, OverlappingEngine):
            pending = self._engine.begin([self._image(location) for location in locations])
            return _PendingResults(pending, counts, scoring)
        return _results(self._engine.run(self._together(locations)), counts, scoring)

    def _image(self, location: Sequence[int]) -> NDArray[np.uint8]:
        memory, offset = location
        return self._memories[memory].array(offset, self._side, self._side, 3)

    def _together(self, locations: Sequence[Sequence[int]]) -> Images:
        """The images in one array: in place if each begins where the one before it ends, or else copied."""
        size = 3 * self._side**2
        memory, begin = locations[0]
        if all([memory, begin + index * size] == [*location] for index, location in enumerate(locations)):
            return self._memories[memory].array(begin, len(locations), self._side, self._side, 3)
        return np.stack([self._image(location) for location in locations])

    def _engines(self, name: str) -> list[Engine]:
        if name not in self._offered:
            self._offered[name] = offered_engines(name, self._files, self._side)
        return self._offered[name]

    @staticmethod
    def _reason(err: Exception) -> str:
        """Why the engine does not work; raises `err` again where that is for the bundle's owner."""
        if isinstance(err, ExplainedError):
            raise err
        if isinstance(err, EngineRefused):
            return str(err)
        log.error("the engine cannot run this model", exc_info=err)
        return f"it cannot run this model: {_short(err)}"


class _Scoring(NamedTuple):
    """How scores are made of logits."""

    activation: Activation
    temperature: float


@dataclass(frozen=True)
class _PendingResults:
    pending: PendingOutputs
    counts: Sequence[int]
    scoring: _Scoring

    def ready(self) -> bool:
        return self.pending.ready()

    def result(self) -> tuple[Values, Arrays]:
        return _results(self.pending.outputs(), self.counts, self.scoring)


def _results(outputs: Outputs, counts: Sequence[int], scoring: _Scoring) -> tuple[Values, Arrays]:
    """What EngineHost.run returns for the logits of all images."""
    best = [
        best_classes(logits, count, *scoring) if count else [] for logits, count in zip(outputs[0], counts, strict=True)
    ]
    return best, [outputs[:, [index for index, count in enumerate(counts) if not count]]]


def _short(err: Exception) -> str:
    first = str(err).strip().partition("\n")[0][:_LONGEST_REASON]
    return f"{type(err).__name__}: {first}" if first else type(err).__name__


def _plan(manifest: PlanManifest, file: int) -> TensorRTPlan:
    def read() -> bytes:
        plan = file_content(file)
        if hashlib.sha256(plan).hexdigest() != manifest.plan_sha256:
            raise BadBundle(f"the plan for {manifest.gpu} is not the one that its manifest describes")
        return plan

    return TensorRTPlan(manifest, read)
