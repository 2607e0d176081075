"""The self-test of transfer slots at load: every batch size in every slot answers as single images do.

It covers what a test of the plan alone cannot: execution contexts that share an engine and scratch memory, captured
graphs, and the buffers of the slots. A bundle's golden images are too few for that: they reach the smallest sizes only.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from app.engines.gpu.transfer_slot import TransferSlot
from bundle.golden import TOLERANCE
from bundle.tensors import OUTPUTS, Images, Outputs

_DIFFERENT_IMAGES = 5  # batch sizes are rarely a multiple of it, so that pieces of a call begin with different ones
_PATCH = 16  # pixels of one colour

Run = Callable[[Images], Outputs]


def sample_images(count: int, side: int) -> Images:
    """Images (count, side, side, 3) of coloured patches, of which a few are different."""
    patches = -(-side // _PATCH)
    colours = np.random.default_rng(0).integers(0, 256, (_DIFFERENT_IMAGES, patches, patches, 3), np.uint8)
    images = colours.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :side, :side]
    return images[np.arange(count) % _DIFFERENT_IMAGES]


def disagreement(
    slots: Sequence[TransferSlot], sizes: Sequence[int], side: int, precision: str, *, run: Run, most: int
) -> str | None:
    """What answers otherwise than single images in the first of `slots`, None if nothing does.

    Full batches of all `sizes` in all slots are tried, then a `run` of the whole engine with `most` images.
    """
    single = [_run(slots[0], min(sizes), image[None]) for image in sample_images(_DIFFERENT_IMAGES, side)]
    expected = np.concatenate(single, axis=1)
    for what, count, tried in [*_in_each_slot(slots, sizes), (f"a call of {most} images", most, run)]:
        off = _distance(expected[:, np.arange(count) % _DIFFERENT_IMAGES], tried(sample_images(count, side)))
        if not off <= TOLERANCE[precision]:  # NaN is no answer either
            return (
                f"{what} answers otherwise than single images: "
                f"logits {off:.1e} off, over {TOLERANCE[precision]:.1e} for {precision}"
            )
    return None


def _in_each_slot(slots: Sequence[TransferSlot], sizes: Sequence[int]) -> Iterator[tuple[str, int, Run]]:
    """The smallest size comes again after each other one, which may have left something behind."""
    for number, slot in enumerate(slots, 1):
        for size in sizes:
            for count in (size, min(sizes)):
                yield f"a batch of {count} in slot {number} of {len(slots)}", count, partial(_run, slot, count)


def _run(slot: TransferSlot, bucket: int, images: Images) -> Outputs:
    outputs = np.empty((len(OUTPUTS), len(images), slot.classes), np.float32)
    slot.submit(images, bucket, outputs)
    slot.collect()
    return outputs


def _distance(expected: Outputs, actual: Outputs) -> float:
    """The largest distance of an image's logits as one vector, relative to its length; NaN if any logit is."""
    with np.errstate(invalid="ignore"):  # what is in memory that was not written may be infinite or no number
        wide = expected.astype(np.float64)  # has squares of all that float32 has
        distances = np.linalg.norm(actual - wide, axis=(0, 2))
        lengths = np.linalg.norm(wide, axis=(0, 2))
    return float((distances / np.maximum(lengths, 1e-6)).max())
