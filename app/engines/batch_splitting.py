"""Cuts a batch of any size into the batch sizes, called buckets, that a plan was built for.

The largest bucket is taken as often as the images fill it. The rest is cut in the way that takes the least time by the
measured time of each bucket, however much of it is padding: ten images may be fastest as 8 + 8, as 8 + 1 + 1 or as 32.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPart:
    """`count` images from `start` on, run in `bucket`."""

    start: int
    count: int
    bucket: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count)


class BatchSplitter:
    """Cuts batches; `seconds` has the measured time of each bucket, more than 0."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._largest = max(seconds)
        self._rests = _rests(seconds)

    def pieces(self, images: int) -> Iterator[BatchPart]:
        """Pieces of 0 to `images` in order; only the last can be smaller than its bucket."""
        full, rest = divmod(images, self._largest)
        start = 0
        for bucket in (self._largest,) * full + self._rests[rest]:
            count = min(bucket, images - start)
            yield BatchPart(start, count, bucket)
            start += count


def _rests(seconds: Mapping[int, float]) -> list[tuple[int, ...]]:
    """The buckets that take least time for 0, 1, 2 ... images less than the largest bucket, largest first.

    Without the smallest of them the images would not fit, or the others would take less time: so none is empty.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for images in range(1, max(seconds)):
        ways = []
        for bucket, taken in seconds.items():
            more, others = best[max(0, images - bucket)]
            ways.append((taken + more, (*others, bucket)))
        best.append(min(ways, key=lambda way: (way[0], len(way[1]))))
    return [tuple(sorted(buckets, reverse=True)) for _, buckets in best]
