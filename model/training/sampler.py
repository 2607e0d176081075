"""Which images come in which step: a function of the recipe and the step's number, so that a run can be taken up."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from model.training.images import Chunk


@dataclass(frozen=True)
class Sampler:
    """Steps of `batch` out of `images`; this process, `rank` of `ranks`, has its part of each, in micro-batches."""

    images: int
    batch: int
    repeats: int
    seed: int
    micro_batch: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which as many images are seen as there are; what is left over has its turn in other epochs."""
        return self.images // self.batch

    @property
    def chunks_a_step(self) -> int:
        """How many micro-batches a step has in this process."""
        return -(-self.batch // self.ranks // self.micro_batch)

    def chunks(self, first: int, end: int) -> Iterator[Chunk]:
        """The micro-batches of the steps from `first` to before `end`."""
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
        """The images of an epoch. With `repeats` fewer are seen, each so often: Hoffer et al. 2020."""
        chosen = torch.randperm(self.images, generator=torch.Generator().manual_seed(derive_seed(self.seed, epoch)))
        order: list[int] = chosen.repeat_interleave(self.repeats)[: self.images].tolist()
        return order


def all_in_order(images: int, micro_batch: int, rank: int, ranks: int) -> Iterator[Chunk]:
    """Every image once, this process' part of them."""
    part = range(rank, images, ranks)
    for place in range(0, len(part), micro_batch):
        yield Chunk(part[place : place + micro_batch], 0)


def derive_seed(*numbers: int) -> int:
    """A seed that depends on `numbers` alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
