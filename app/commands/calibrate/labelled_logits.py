"""Logits of labelled images: by the service's own decoders and engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from app.commands.calibrate.temperature_fit import Logits, Truths
from app.serving.offline_model import run_in_order
from app.serving.served_model import ServedModel
from bundle.bundle_errors import ExplainedError
from bundle.class_labels import ClassLabel
from bundle.tensors import Outputs
from model.dataset import BadDataset, Dataset


@dataclass(frozen=True)
class LabelledLogits:
    """The logits of images, and their classes.

    Attributes:
        logits: (images, classes).
        truths: the index of each image's class.
        indices: of the images in the data, in the same order.
        failed: how many images have no answer.
    """

    logits: Logits
    truths: Truths
    indices: list[int]
    failed: int


async def labelled_logits(
    model: ServedModel,
    resolution: int,
    data: Dataset,
    indices: Sequence[int],
    truths: Mapping[str, ClassLabel],
    watch: Callable[[], None] = lambda: None,
) -> LabelledLogits:
    """The logits of the images at `indices`; an image without an answer is left out. `watch` is called for each."""
    logits: list[Outputs] = []
    answered: list[int] = []
    async with aclosing(_outputs(model, resolution, data, indices)) as outputs:
        async for index, found in outputs:
            watch()
            if found is not None:
                logits.append(found)
                answered.append(index)
    classes = model.bundle.manifest.classes
    return LabelledLogits(
        np.stack(logits) if logits else np.empty((0, classes), np.float32),
        np.array([truths[data.items[index].category].index for index in answered], np.intp),
        answered,
        len(indices) - len(answered),
    )


async def _outputs(
    model: ServedModel, resolution: int, data: Dataset, indices: Sequence[int]
) -> AsyncGenerator[tuple[int, Outputs | None]]:
    async def outcome(index: int) -> tuple[int, Outputs | None]:
        try:
            body = await asyncio.to_thread(data.read, index)
            return index, (await model.classify(body, resolution)).outputs[0].copy()
        except (BadDataset, ExplainedError):
            return index, None

    async with aclosing(run_in_order(map(outcome, indices), model.capacity)) as outcomes:
        async for found in outcomes:
            yield found
