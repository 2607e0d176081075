"""Several calls on their way in the TensorRT engine, on a fake GPU."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engines.gpu.device import DeviceError
from app.engines.interface import OverlappingEngine
from tests.app.engines.gpu.on_fake_gpu import fake, held, loaded, network, pictures


def test_it_is_an_engine_whose_calls_may_overlap() -> None:
    engine = loaded(fake())
    assert isinstance(engine, OverlappingEngine)
    engine.close()


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    eager=st.sampled_from([0.0, 0.3, 0.9]),
    order=st.randoms(use_true_random=False),
)
def test_every_call_gets_its_own_logits_in_whatever_order_they_are_collected(
    counts: list[int], seed: int, eager: float, order: Random
) -> None:
    gpu = fake((1, 4, 8), seed=seed, eager=eager)
    engine = loaded(gpu)
    calls = [(engine.begin(images), network(images)) for images in (pictures(count, seed=count) for count in counts)]
    order.shuffle(calls)
    for pending, expected in calls:
        while not pending.ready():
            pass
        np.testing.assert_array_equal(pending.outputs(), expected)
        np.testing.assert_array_equal(pending.outputs(), expected)  # asking again changes nothing
    engine.close()
    assert held(gpu) == 0


def test_the_images_of_a_call_are_sent_before_the_call_before_it_has_ended() -> None:
    gpu = fake((1, 8), eager=0.0)  # does nothing before somebody waits for it
    engine = loaded(gpu)
    first, second = engine.begin(pictures(8, seed=1)), engine.begin(pictures(8, seed=2))
    assert any(gpu.queues.values())  # neither has run
    np.testing.assert_array_equal(second.outputs(), network(pictures(8, seed=2)))
    np.testing.assert_array_equal(first.outputs(), network(pictures(8, seed=1)))
    engine.close()


def test_images_may_lie_apart_and_are_not_read_after_the_call_has_begun() -> None:
    engine = loaded(fake((1, 8), eager=0.0))
    images = [image.copy() for image in pictures(5)]
    pending = engine.begin(images)
    for image in images:
        image[...] = 0
    np.testing.assert_array_equal(pending.outputs(), network(pictures(5)))
    engine.close()


@pytest.mark.parametrize("asked", [True, False])
def test_after_a_failure_every_call_fails_and_none_begins(asked: bool) -> None:
    gpu = fake((1, 8), eager=0.0)
    engine = loaded(gpu)
    first, second = engine.begin(pictures(8)), engine.begin(pictures(8))
    gpu.fails_at = len(gpu.calls) + 1
    if asked:
        assert first.ready()  # there is nothing to wait for
    for pending in (first, second):
        with pytest.raises(DeviceError):
            pending.outputs()
    with pytest.raises(DeviceError, match="has failed"):
        engine.begin(pictures(1))
    engine.close()
