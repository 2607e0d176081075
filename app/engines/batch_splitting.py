"""Cuts a batch of any size into the batch sizes, called buckets, that a plan was built for.

The images of a piece are copied to the device while the network runs for the piece before it. The cut is the one with
the least wall time of this two-stage pipeline:

    copy(first) + sum over pieces of max(network(this), copy(next)) + network(last)

The network takes as long for a piece that is smaller than its bucket as for a full one. So ten images may be fastest as
2 + 8, as 8 + 1 + 1 or as a part of 32. 256 images may be fastest as 4 x 64, though one run of 256 is faster than four
of 64: its copy overlaps nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_NANOSECONDS = 10**9  # in a second; whole ones, so that sums are exact and equal cuts are seen to be equal


@dataclass(frozen=True)
class BatchPart:
    """`count` images from `start` on, run in `bucket`."""

    start: int
    count: int
    bucket: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count)


@dataclass(frozen=True)
class _Cut:
    """A way to cut some images. The one of lowest cost is the best."""

    cost: tuple[int, int, int]  # nanoseconds of wall time, nanoseconds of all the network's runs, pieces
    count: int = 0  # images of the first piece, if there is one
    bucket: int = 0
    rest: "_Cut | None" = None

    def preceded_by(self, count: int, bucket: int, wall: int, network: int = 0) -> "_Cut":
        """This one with a piece before it; `wall` and `network` are the nanoseconds that are added."""
        cost = (wall + self.cost[0], network + self.cost[1], 1 + self.cost[2])
        return _Cut(cost, count, bucket, self)


class BatchSplitter:
    """Cuts batches by dynamic programming. By the measured times, no cut takes less wall time for any number of images.

    All pieces but the first fill their buckets, which no optimum needs to give up. A copy takes time in proportion to
    its images, and the first one overlaps nothing. To move an image from the first piece into the free room of a later
    one saves that image's copy, and costs one at most. A first piece that is emptied in this way can be left out, which
    saves its run.

    Of cuts that take equal time, it takes those that keep the network busy least, of these those of fewest pieces, and
    of these the one with the larger buckets first. Without copies the buckets are therefore in descending order.

    Args:
        network_seconds: the measured time of the network for each bucket, more than 0.
        copy_seconds: the measured time of copying one image to the device while the network runs; 0 where copies do not
            overlap the network, and are part of its time.
    """

    def __init__(self, network_seconds: Mapping[int, float], copy_seconds: float = 0.0) -> None:
        self._buckets = sorted(network_seconds, reverse=True)
        self._network = {size: max(1, round(taken * _NANOSECONDS)) for size, taken in network_seconds.items()}
        self._copy = round(copy_seconds * _NANOSECONDS)
        # By number of images and bucket: the best cut of these images into full buckets, if there is any. Its cost
        # counts from the moment at which the network starts to run for a piece of that bucket before them.
        self._full = [{size: _Cut((taken, taken, 0)) for size, taken in self._network.items()}]
        self._cuts: dict[int, _Cut] = {}

    def pieces(self, images: int) -> Iterator[BatchPart]:
        """Pieces of 0 to `images` in order; only the first can be smaller than its bucket."""
        start = 0
        cut = self._cut(images) if images else None
        while cut and cut.count:
            yield BatchPart(start, cut.count, cut.bucket)
            start += cut.count
            cut = cut.rest

    def seconds(self, images: int) -> float:
        """The predicted wall time of `images`, without the return of the last piece's logits."""
        return self._cut(images).cost[0] / _NANOSECONDS if images else 0.0

    def _cut(self, images: int) -> _Cut:
        """The best cut of any number of images but 0."""
        while len(self._full) <= images:
            self._full.append(self._all_full(len(self._full)))
        if images not in self._cuts:
            self._cuts[images] = _cheapest(
                rest.preceded_by(count, bucket, count * self._copy)
                for bucket in self._buckets
                for count in range(min(bucket, images), 0, -1)
                if (rest := self._full[images - count].get(bucket))
            )
        return self._cuts[images]

    def _all_full(self, images: int) -> dict[int, _Cut]:
        """The entry of `_full` for `images`; those for fewer images are there."""
        rests = [
            (bucket, rest)
            for bucket in self._buckets
            if bucket <= images and (rest := self._full[images - bucket].get(bucket))
        ]
        if not rests:
            return {}
        return {
            running: _cheapest(
                rest.preceded_by(bucket, bucket, max(taken, bucket * self._copy), taken) for bucket, rest in rests
            )
            for running, taken in self._network.items()
        }


def _cheapest(cuts: Iterable[_Cut]) -> _Cut:
    """The first of those of lowest cost."""
    return min(cuts, key=lambda cut: cut.cost)
