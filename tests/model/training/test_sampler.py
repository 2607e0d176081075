from collections import Counter
from itertools import chain

import pytest

from model.training.sampler import Sampler, all_in_order


def test_an_epoch_has_every_image_once_and_no_two_epochs_are_alike() -> None:
    order = Sampler(images=12, batch=4, repeats=1, seed=0, micro_batch=4)
    assert order.steps_an_epoch == 3
    epochs = [list(chain.from_iterable(c.indices for c in order.chunks(n, n + 3))) for n in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("start", range(8))
def test_a_resumed_sampler_gives_the_same_images_from_its_step_on(start: int) -> None:
    order = Sampler(images=11, batch=4, repeats=1, seed=3, micro_batch=3)
    assert list(order.chunks(0, 8))[2 * start :] == list(order.chunks(start, 8))


def test_processes_share_a_step_and_draw_different_random_numbers() -> None:
    parts = [Sampler(24, 8, 1, 0, micro_batch=3, rank=rank, ranks=2) for rank in (0, 1)]
    whole = next(Sampler(24, 8, 1, 0, micro_batch=8).chunks(0, 1))
    for part in parts:
        assert part.chunks_a_step == len(list(part.chunks(0, 1))) == 2
    seen = [index for part in parts for chunk in part.chunks(0, 1) for index in chunk.indices]
    assert sorted(seen) == sorted(whole.indices)
    seeds = [chunk.seed for part in parts for chunk in part.chunks(0, 3)]
    assert len(set(seeds)) == len(seeds)


def test_with_repeats_an_image_comes_as_often_in_a_step() -> None:
    order = Sampler(images=30, batch=9, repeats=3, seed=0, micro_batch=9)
    for chunk in order.chunks(0, 3):
        assert set(Counter(chunk.indices).values()) == {3}


def test_validation_has_every_image_once_over_all_processes() -> None:
    chunks = [chunk for rank in range(3) for chunk in all_in_order(20, 4, rank, 3)]
    assert sorted(chain.from_iterable(chunk.indices for chunk in chunks)) == list(range(20))
