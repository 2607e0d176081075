"""Which images each step has: a function of the recipe and the step's number, so that a run can be resumed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from model.training.images import Chunk


@dataclass(frozen=True)
class Sampler:
    """The chunks of this process in each step.

    Attributes:
        images: the number of training images.
        batch: images in a step, of all processes.
        repeats: how often an image is in a step.
        seed: of the recipe.
        micro_batch: the most images in a chunk.
        rank: the number of this process.
        ranks: the number of processes.
    """

    images: int
    batch: int
    repeats: int
    seed: int
    micro_batch: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps_an_epoch(self) -> int:
        """Whole steps in `images`; the images that are left out differ from epoch to epoch."""
        return self.images // self.batch

    @property
    def chunks_a_step(self) -> int:
        """Micro-batches of a step in this process."""
        return -(-self.batch // self.ranks // self.micro_batch)

    def chunks(self, first: int, end: int) -> Iterator[Chunk]:
        """The micro-batches of the steps from `first` up to `end`, which is excluded."""
        epoch, order = -1, []
        for step in range(first, end):
            if step // self.steps_an_epoch != epoch:
                epoch = step // self.steps_an_epoch
                order = self._order(epoch)
            start = step % self.steps_an_epoch * self.batch
            part = order[start : start + self.batch][self.rank :: self.ranks]
            for number, place in enumerate(range(0, len(part), self.micro_batch)):
                yield Chunk(part[place : place + self.micro_batch], derive_seed(self.seed, step, number, self.rank))

    def _order(self, epoch: int) -> list[int]:
        """The images of an epoch. Each is in it `repeats` times, so it has fewer different ones: Hoffer et al. 2020."""
        chosen = torch.randperm(self.images, generator=torch.Generator().manual_seed(derive_seed(self.seed, epoch)))
        order: list[int] = chosen.repeat_interleave(self.repeats)[: self.images].tolist()
        return order


def all_in_order(images: int, micro_batch: int, rank: int, ranks: int) -> Iterator[Chunk]:
    """Every image once: this process' part of them."""
    part = range(rank, images, ranks)
    for place in range(0, len(part), micro_batch):
        yield Chunk(part[place : place + micro_batch], 0)


def derive_seed(*numbers: int) -> int:
    """A seed that depends only on `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
