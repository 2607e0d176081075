"""How batches are cut into a plan's batch sizes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engines.batch_splitting import BatchSplitter

# As on a fast GPU: milliseconds of the network, and of the copy of an image at 224 pixels.
NETWORK = {1: 0.9e-3, 8: 1.1e-3, 32: 1.8e-3, 64: 3.1e-3, 128: 6.1e-3, 256: 12.0e-3}
COPY = 30e-6

Cut = Sequence[tuple[int, int]]  # images and bucket of each piece


def cut(splitter: BatchSplitter, images: int) -> list[tuple[int, int]]:
    return [(piece.count, piece.bucket) for piece in splitter.pieces(images)]


def buckets(splitter: BatchSplitter, images: int) -> list[int]:
    return [piece.bucket for piece in splitter.pieces(images)]


def wall_seconds(pieces: Cut, network: Mapping[int, float], copy: float) -> float:
    """Of the pipeline, moment by moment: a copy and a run begin when the piece before is copied and none runs."""
    copied = ran = 0.0
    for index, (count, bucket) in enumerate(pieces):
        copied = copied + count * copy
        if index + 1 == len(pieces):
            return max(copied, ran) + network[bucket]
        copied = ran = max(copied, ran)
        ran += network[bucket]
    return 0.0


def all_cuts(images: int, sizes: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Every way, with any of the pieces smaller than its bucket."""
    if not images:
        yield []
    for bucket in sizes:
        for count in range(1, min(bucket, images) + 1):
            for rest in all_cuts(images - count, sizes):
                yield [(count, bucket), *rest]


milliseconds = st.integers(1, 20).map(lambda taken: taken / 1000)


@settings(max_examples=60, deadline=None)
@given(
    times=st.dictionaries(st.integers(1, 6), milliseconds, min_size=1, max_size=3),
    copy=st.integers(0, 8000).map(lambda taken: taken / 1e6),
    images=st.integers(1, 7),
)
def test_no_other_cut_takes_less_wall_time(times: dict[int, float], copy: float, images: int) -> None:
    splitter = BatchSplitter(times, copy)
    taken = wall_seconds(cut(splitter, images), times, copy)
    assert taken == pytest.approx(splitter.seconds(images))
    assert taken <= min(wall_seconds(way, times, copy) for way in all_cuts(images, list(times))) + 1e-8


@given(
    times=st.dictionaries(st.integers(1, 16), st.floats(1e-6, 10), min_size=1, max_size=5),
    copy=st.floats(0, 1e-3),
    images=st.integers(0, 100),
)
def test_pieces_hold_all_images_in_order_and_only_the_first_is_padded(
    times: dict[int, float], copy: float, images: int
) -> None:
    pieces = list(BatchSplitter(times, copy).pieces(images))
    assert [index for piece in pieces for index in range(images)[piece.rows]] == list(range(images))
    assert all(0 < piece.count <= piece.bucket and piece.bucket in times for piece in pieces)
    assert all(piece.count == piece.bucket for piece in pieces[1:])


@given(
    times=st.dictionaries(st.integers(1, 16), st.floats(1e-6, 10), min_size=1, max_size=5), images=st.integers(0, 100)
)
def test_without_copies_larger_buckets_come_first(times: dict[int, float], images: int) -> None:
    pieces = buckets(BatchSplitter(times), images)
    assert all(first >= second for first, second in pairwise(pieces))


def test_what_dominates_the_time_decides_how_much_is_padded() -> None:
    launches_dominate = BatchSplitter({1: 1.0, 8: 1.3, 32: 3.0, 64: 5.0})
    images_dominate = BatchSplitter({1: 1.0, 8: 8.0, 32: 32.0, 64: 64.0})
    cuts = {
        count: [buckets(splitter, count) for splitter in (launches_dominate, images_dominate)]
        for count in (0, 1, 3, 9, 10, 33, 40, 63, 64, 65, 200)
    }
    assert cuts == {
        0: [[], []],
        1: [[1], [1]],
        3: [[8], [1, 1, 1]],
        9: [[8, 1], [8, 1]],
        10: [[8, 8], [8, 1, 1]],
        33: [[32, 1], [32, 1]],
        40: [[32, 8], [32, 8]],
        63: [[64], [32, 8, 8, 8, 1, 1, 1, 1, 1, 1, 1]],
        64: [[64], [64]],
        65: [[64, 1], [64, 1]],
        200: [[64, 64, 64, 8], [64, 64, 64, 8]],
    }


def test_a_full_batch_is_cut_where_its_copy_would_hold_up_the_network() -> None:
    assert cut(BatchSplitter(NETWORK), 256) == [(256, 256)]
    splitter = BatchSplitter(NETWORK, COPY)
    assert buckets(splitter, 256) == [32, 64, 64, 64, 32]
    assert splitter.seconds(256) < 0.75 * (256 * COPY + NETWORK[256])


def test_equal_buckets_follow_where_no_smaller_one_has_been_built() -> None:
    splitter = BatchSplitter({64: 3.1e-3, 256: 12.0e-3}, COPY)
    assert buckets(splitter, 256) == [64] * 4
    assert cut(splitter, 200) == [(8, 64), (64, 64), (64, 64), (64, 64)]


def test_cuts_of_many_images_are_found_in_time_in_proportion_to_them() -> None:
    assert sum(count for count, _ in cut(BatchSplitter(NETWORK, COPY), 5000)) == 5000
