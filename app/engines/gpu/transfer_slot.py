"""A double-buffer slot for images and logits: buffers on host and GPU, and the network bound to them.

Pixels go from pinned memory to the GPU on one stream, the network runs on a second and logits come back on a third, so
that copies for one slot overlap the network's run for another. Events order the three steps of a piece; the steps of
the next piece in the same slot come after `collect`, which waits for the last of them. So no buffer is touched while it
is in use. All slots run their networks on the same stream, one after the other, so they can share scratch memory.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engines.batch_timing import least_seconds
from app.engines.gpu.device import Address, CaptureFailed, PlanNetwork, Stream, TensorRTDevice
from bundle.tensors import INPUT, OUTPUTS, ImageRows, Outputs

log = logging.getLogger(__name__)

_BUFFER_ALIGNMENT = 256  # bytes; TensorRT requires it


@dataclass(frozen=True)
class Streams:
    """One for each step of a piece."""

    images: Stream
    network: Stream
    logits: Stream


class TransferSlot:
    """Takes one piece at a time.

    Args:
        gpu: runs the network.
        network: a deserialised plan.
        streams: for the copies and the runs; slots share them.
        scratch: memory for the network's runs; slots share it.
        profiles: the profile of each bucket.
        side: of the images, in pixels.
        classes: in each output.
        held: gives back what is taken here.
    """

    def __init__(
        self,
        gpu: TensorRTDevice,
        network: PlanNetwork,
        streams: Streams,
        scratch: Address,
        *,
        profiles: Mapping[int, int],
        side: int,
        classes: int,
        held: ExitStack,
    ) -> None:
        self._gpu = gpu
        self._streams = streams
        self.classes = classes
        self._copied, self._ran, self._done = (held.enter_context(gpu.event()) for _ in range(3))
        largest = max(profiles)
        self._pixels = held.enter_context(gpu.pinned(largest * side * side * 3)).reshape(largest, side, side, 3)
        self._logits = held.enter_context(gpu.pinned(len(OUTPUTS) * largest * classes * 4)).view(np.float32)
        self._images = held.enter_context(gpu.memory(self._pixels.nbytes))
        self._pitch = (
            -(-largest * classes * 4 // _BUFFER_ALIGNMENT) * _BUFFER_ALIGNMENT
        )  # bytes from one output to the next
        self._outputs = held.enter_context(gpu.memory(len(OUTPUTS) * self._pitch))
        addresses = {name: Address(self._outputs + index * self._pitch) for index, name in enumerate(OUTPUTS)}
        addresses[INPUT] = self._images
        self._launch = {
            bucket: self._prepare(network, profile, addresses, scratch, held) for bucket, profile in profiles.items()
        }
        self._awaited: Outputs | None = None  # where the logits go of the piece that is on its way

    def submit(self, images: ImageRows, bucket: int, outputs: Outputs) -> None:
        """Send `images`, at most `bucket` of them, on their way; `collect` writes their logits to `outputs`.

        The rest of the bucket holds what earlier pieces left there. Images do not mix in the network, and no logits of
        the rest come back.
        """
        count = len(images)
        logits = self._returned(count)
        gpu, streams = self._gpu, self._streams
        self._awaited = outputs
        self._send(images)
        gpu.wait(streams.network, self._copied)
        self._launch[bucket]()
        gpu.record(self._ran, streams.network)
        gpu.wait(streams.logits, self._ran)
        gpu.copy_out(logits, self._outputs, self._pitch, streams.logits)
        gpu.record(self._done, streams.logits)

    def collect(self) -> None:
        """Wait for the piece that is on its way, if there is one: then its logits are in place and the slot is free."""
        if self._awaited is not None:
            self._gpu.synchronize(self._done)
            np.copyto(self._awaited, self._returned(self._awaited.shape[1]).reshape(self._awaited.shape))
            self._awaited = None

    def awaits(self, outputs: Outputs) -> bool:
        """Whether the piece whose logits go to `outputs` has not been collected."""
        return self._awaited is outputs

    def done(self) -> bool:
        """Whether `collect` has nothing to wait for."""
        return self._awaited is None or self._gpu.passed(self._done)

    def network_seconds(self, bucket: int) -> float:
        """The seconds of a run of the network with a full bucket."""

        def run() -> None:
            self._launch[bucket]()
            self._gpu.record(self._ran, self._streams.network)
            self._gpu.synchronize(self._ran)

        return least_seconds(run)  # of which the first also uploads a graph

    def copy_seconds(self) -> float:
        """The seconds that an image takes to pinned memory and on to the GPU, among as many as the slot holds."""
        # Ones have memory of their own; that of zeros would be one page, and so in the cache.
        images = np.ones_like(self._pixels)

        def copy() -> None:
            self._send(images)
            self._gpu.synchronize(self._copied)

        return least_seconds(copy) / len(images)

    def _send(self, images: ImageRows) -> None:
        """Copy `images` to pinned memory, and let the GPU copy them from there; `_copied` is when it has."""
        pixels = self._pixels[: len(images)]
        for place, image in zip(pixels, images, strict=True):
            np.copyto(place, image)
        self._gpu.copy_in(self._images, pixels, self._streams.images)
        self._gpu.record(self._copied, self._streams.images)

    def _returned(self, count: int) -> NDArray[np.float32]:
        """Pinned memory for the logits of `count` images: one row for each output, without gaps."""
        return self._logits[: len(OUTPUTS) * count * self.classes].reshape(len(OUTPUTS), -1)

    def _prepare(
        self, network: PlanNetwork, profile: int, addresses: Mapping[str, Address], scratch: Address, held: ExitStack
    ) -> Callable[[], None]:
        """A function that enqueues the network at `profile`: as a captured graph, or kernel by kernel if there is none.

        The kernels are the same; a graph saves the time of launching several hundred. It has its context's state built
        in, so that each has a context of its own.
        """
        gpu, stream = self._gpu, self._streams.network
        context = held.enter_context(network.context(profile, addresses, scratch, stream))

        def run() -> None:
            context.enqueue(stream)
            gpu.record(self._ran, stream)
            gpu.synchronize(self._ran)

        # TensorRT finishes its preparations in the first run, which cannot be captured. It is waited for, so that what
        # fails of the run is not taken for a failed capture.
        run()
        try:
            graph = held.enter_context(gpu.capture(context, stream))
        except CaptureFailed as err:
            run()  # what failed may have left the stream or the context unfit
            log.warning("profile %d runs without a CUDA graph, which small batches will feel: %s", profile, err)
            return lambda: context.enqueue(stream)
        return lambda: gpu.launch(graph, stream)
