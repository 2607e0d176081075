"""The worker's side of an inspection process: ONNX Runtime with the inspection graph. `inspector` calls it."""

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.engines.engine_process.graph_files import checked_graph
from app.machine.cpus import usable_cpus
from app.processes.channel import Arrays, Values
from app.processes.shared_memory import SharedMemory
from bundle.file_names import MODEL
from bundle.inspection import (
    ATTENTION_LARGE,
    ATTENTION_SMALL,
    CLASSES,
    CONTRIBUTIONS_LARGE,
    CONTRIBUTIONS_SMALL,
    EMBEDDING_LARGE,
    EMBEDDING_SMALL,
)
from bundle.tensors import INPUT, OUTPUTS

_NICENESS = 10  # the engine that classifies goes first
_EMBEDDINGS = (EMBEDDING_SMALL, EMBEDDING_LARGE)
_MAPS = (ATTENTION_SMALL, ATTENTION_LARGE, CONTRIBUTIONS_SMALL, CONTRIBUTIONS_LARGE)


class InspectionHost:
    """Runs the inspection graph at any side.

    Args:
        inspection_sha256: of the inspection graph.
        model_sha256: of the float32 graph, which has most of the weights.
        files: open files: the inspection graph, the float32 graph, and those of the memories that have the images.
    """

    def __init__(self, inspection_sha256: str, model_sha256: str, files: Sequence[int]) -> None:
        inspection, model, *memories = files
        os.nice(_NICENESS)
        weights = checked_graph(model, model_sha256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cpus()
        # Threads that wait for more work would keep cores busy that the other engine needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers_from_files_in_memory([MODEL], [weights], [len(weights)])
        graph = checked_graph(inspection, inspection_sha256)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._fetches_only = onnxruntime.RunOptions()
        self._fetches_only.only_execute_path_to_fetches = True
        self._memories = [SharedMemory(file=file) for file in memories]

    def run(
        self, side: int, locations: Sequence[Sequence[int]], classes: Sequence[Sequence[int]]
    ) -> tuple[Values, Arrays]:
        """Inspect the images of `side` pixels at `locations`, each the number of a memory and an offset.

        `classes` has for each image the classes to explain, none for its embedding only; -1 is its best class, -2 its
        second best, and so on.

        The arrays are the logits (outputs, images, classes), the embeddings of both branches (images, width), and for
        the images that have classes: these (images, k), attention of both branches (images, grid, grid) and
        contributions (images, k, grid, grid). An image with less than k classes has its last one several times.
        """
        images = np.stack([self._memories[memory].array(offset, side, side, 3) for memory, offset in locations])
        explained = [index for index, wanted in enumerate(classes) if wanted]
        names = (*OUTPUTS, *_EMBEDDINGS)
        if not explained:
            found = self._run(images, _no_classes(images), names)
            return [], _with_stacked_logits(found)
        chosen = self._chosen(images, classes)
        found = self._run(images, chosen, (*names, *_MAPS))
        of_all, maps = found[: len(names)], found[len(names) :]
        return [], [*_with_stacked_logits(of_all), chosen[explained], *(array[explained] for array in maps)]

    def _chosen(self, images: NDArray[np.uint8], classes: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """The indices (images, k) of `classes`, those that are named by their rank too."""
        k = max(map(len, classes))
        padded = [[*wanted, *[*wanted, 0][-1:] * (k - len(wanted))] if wanted else [0] * k for wanted in classes]
        chosen = np.array(padded, np.int64)
        if (chosen < 0).any():
            (logits,) = self._run(images, _no_classes(images), OUTPUTS[:1])
            ranked = np.argsort(-logits, axis=1, kind="stable")
            ranks = np.clip(-1 - chosen, 0, ranked.shape[1] - 1)
            chosen = np.where(chosen < 0, np.take_along_axis(ranked, ranks, axis=1), chosen)
        return chosen

    def _run(
        self, images: NDArray[np.uint8], classes: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = self._session.run(
            list(outputs), {INPUT: images, CLASSES: classes}, self._fetches_only
        )
        return found


def _no_classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.zeros((len(images), 1), np.int64)


def _with_stacked_logits(found: Sequence[NDArray[np.float32]]) -> Arrays:
    """`found` with its logits in one array (outputs, images, classes)."""
    return [np.stack(found[: len(OUTPUTS)]), *found[len(OUTPUTS) :]]
