"""A fake GPU: these tests run where there is none. It does what app.engines.gpu.device says, as late as it may.

Work on a stream waits in a queue. It is done when somebody waits for it, or earlier by chance, in an order that keeps
to nothing but streams and events; a run of the network is two steps, so that others may come between. Whoever forgets
to wait gets wrong numbers, or an error where the real GPU would corrupt memory. The network is a function in numpy.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engines.gpu.device import (
    Address,
    CaptureFailed,
    Context,
    DeviceError,
    Event,
    Graph,
    PlanNetwork,
    Stream,
    Tensor,
    TensorShape,
)

Function = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images to (outputs, batch, classes)


class Moment:
    """What an event was at one time."""

    def __init__(self) -> None:
        self.reached = False


@dataclass
class Step:
    """Work on a stream, to be done once `after` is reached."""

    work: Callable[[], None]
    after: Moment | None = None


@dataclass
class FakeGpu:
    """`eager` is how likely work is done before anybody waits. The call number `fails_at` fails, and all after it if
    `stays_broken`. `takes` counts what is taken and not given back."""

    function: Function
    batch_sizes: tuple[int, ...]
    side: int
    classes: int
    seed: int = 0
    eager: float = 0.2
    fails_at: int | None = None
    stays_broken: bool = False
    captures: bool = True
    tensors: Mapping[str, Tensor] | None = None
    least_sizes: tuple[int, ...] = ()
    name: str = "Fake GPU"
    compute_capability: str = "9.0"
    tensorrt: str = "10.16.1.11"
    takes: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    plans: list[tuple[bytes, bool]] = field(default_factory=list)
    launched: int = 0
    ran: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311
        self.blocks: dict[int, NDArray[np.uint8]] = {}  # memory on the GPU by its first address
        self.hosts: dict[int, int] = {}  # pinned memory: sizes by address
        self.queues: dict[Stream, deque[Step]] = {}
        self.moments: dict[Event, Moment] = {}
        self.graphs: dict[Graph, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.handles = 0

    # What app.engines.gpu.device names.

    @contextmanager
    def network(self, plan: bytes, *, host_code: bool) -> Iterator[PlanNetwork]:
        self.call("network")
        self.plans.append((plan, host_code))
        with self.taken("network"):
            yield FakeNetwork(self)

    @contextmanager
    def memory(self, size: int) -> Iterator[Address]:
        self.call("memory")
        address = 0x10_0000 * (1 + self.handle())  # far apart: what goes beyond its block meets none
        assert 0 < size < 0x10_0000
        self.blocks[address] = self.noise(size)
        with self.taken("memory"):
            yield Address(address)
        self.at_rest()
        del self.blocks[address]

    @contextmanager
    def pinned(self, size: int) -> Iterator[NDArray[np.uint8]]:
        self.call("pinned")
        host = self.noise(size)
        self.hosts[host.ctypes.data] = size
        with self.taken("pinned"):
            yield host
        self.at_rest()
        del self.hosts[host.ctypes.data]
        host[:] = 0xEE  # who still looks at it sees nonsense

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        self.call("stream")
        stream = Stream(self.handle())
        self.queues[stream] = deque()
        with self.taken("stream"):
            yield stream
        self.at_rest()
        del self.queues[stream]

    @contextmanager
    def event(self) -> Iterator[Event]:
        self.call("event")
        event = Event(self.handle())
        self.moments[event] = Moment()
        self.moments[event].reached = True  # one that was never recorded holds nobody up
        with self.taken("event"):
            yield event
        del self.moments[event]

    def copy_in(self, to: Address, pixels: NDArray[np.uint8], stream: Stream) -> None:
        self.call("copy_in")
        self.check_pinned(pixels)

        def work() -> None:
            self.at(to, pixels.nbytes)[:] = pixels.reshape(-1)

        self.enqueue(stream, work)

    def copy_out(self, to: NDArray[Any], start: Address, pitch: int, stream: Stream) -> None:
        self.call("copy_out")
        self.check_pinned(to)
        rows = to.view(np.uint8)
        assert pitch >= rows.shape[1]

        def work() -> None:
            for index, row in enumerate(rows):
                row[:] = self.at(Address(start + index * pitch), len(row))

        self.enqueue(stream, work)

    @contextmanager
    def capture(self, context: Context, stream: Stream) -> Iterator[Graph]:
        self.call("capture")
        assert isinstance(context, FakeContext)
        assert context.runs, "the first run of a context cannot be captured"
        assert not self.queues[stream], "what fails of the first run would be taken for a failed capture"
        if not self.captures:
            raise CaptureFailed("cudaErrorStreamCaptureUnsupported while capturing a graph")
        self.capturing = []
        try:
            context.enqueue(stream)
        finally:
            captured, self.capturing = self.capturing, None
        graph = Graph(self.handle())
        self.graphs[graph] = captured
        with self.taken("graph"):
            yield graph
        self.at_rest()
        del self.graphs[graph]

    def launch(self, graph: Graph, stream: Stream) -> None:
        self.call("launch")
        self.launched += 1
        for work in self.graphs[graph]:
            self.enqueue(stream, work)

    def record(self, event: Event, stream: Stream) -> None:
        self.call("record")
        moment = self.moments[event] = Moment()

        def work() -> None:
            moment.reached = True

        self.enqueue(stream, work)

    def wait(self, stream: Stream, event: Event) -> None:
        self.call("wait")
        self.queues[stream].append(Step(lambda: None, after=self.moments[event]))

    def passed(self, event: Event) -> bool:
        self.call("passed")
        moment = self.moments[event]
        if not moment.reached:
            self.step()  # as late as it may be, and yet at some time
        return moment.reached

    def synchronize(self, event: Event) -> None:
        self.call("synchronize")
        moment = self.moments[event]
        while not moment.reached:
            self.step()

    def drain(self) -> None:
        self.call("drain")
        while any(self.queues.values()):
            self.step()

    # How it does that.

    def call(self, what: str) -> None:
        """Every call goes through here: it may fail, and some of what waits may be done meanwhile."""
        assert self.capturing is None or what == "enqueue", f"{what} while a graph is captured"
        self.calls.append(what)
        if self.fails_at is not None and (
            len(self.calls) == self.fails_at or (self.stays_broken and len(self.calls) > self.fails_at)
        ):
            if self.stays_broken:
                for queue in self.queues.values():
                    queue.clear()  # nothing runs on a GPU after such an error
            raise DeviceError(f"cudaErrorFake while calling {what}, the call number {self.fails_at}")
        while self.chance.random() < self.eager and any(self.queues.values()):
            self.step()

    @contextmanager
    def taken(self, what: str) -> Iterator[None]:
        self.takes[what] += 1
        try:
            yield
        finally:
            self.takes[what] -= 1
            self.call(f"give back {what}")

    def enqueue(self, stream: Stream, *steps: Callable[[], None]) -> None:
        self.queues[stream].extend(Step(work) for work in steps)

    def step(self) -> None:
        """Do the next step of any stream that can go on."""
        ready = [
            queue for queue in self.queues.values() if queue and (queue[0].after is None or queue[0].after.reached)
        ]
        assert ready, "the streams wait for each other"
        self.chance.choice(ready).popleft().work()

    def at(self, address: Address, size: int) -> NDArray[np.uint8]:
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start :][:size]
        raise AssertionError(f"{size} bytes at {address:#x} are not in one block")

    def at_rest(self) -> None:
        assert not any(self.queues.values()), "something was given back that work in a queue may use"

    def check_pinned(self, host: NDArray[Any]) -> None:
        assert host.flags.c_contiguous
        start = host.ctypes.data
        assert any(base <= start and start + host.nbytes <= base + size for base, size in self.hosts.items())

    def noise(self, size: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.chance.randbytes(size), np.uint8).copy()

    def handle(self) -> int:
        self.handles += 1
        return self.handles


class FakeNetwork:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        shape = (gpu.side, gpu.side, 3)
        outputs = ("logits", "logits_small", "logits_large")
        self.tensors: Mapping[str, Tensor] = gpu.tensors or {
            "image": Tensor("uint8", shape, True),
            **{name: Tensor("float32", (gpu.classes,), False) for name in outputs},
        }
        least = gpu.least_sizes or gpu.batch_sizes
        self.profiles: list[tuple[TensorShape, TensorShape, TensorShape]] = [
            ((few, *shape), (size, *shape), (size, *shape)) for few, size in zip(least, gpu.batch_sizes, strict=True)
        ]
        self.scratch_bytes = 512

    @contextmanager
    def context(
        self, profile: int, addresses: Mapping[str, Address], scratch: Address, stream: Stream
    ) -> Iterator[Context]:
        self._gpu.call("context")
        assert stream in self._gpu.queues
        assert set(addresses) == set(self.tensors)
        assert not any(address % 256 for address in (*addresses.values(), scratch))
        with self._gpu.taken("context"):
            yield FakeContext(self._gpu, self._gpu.batch_sizes[profile], dict(addresses), scratch)


class FakeContext:
    def __init__(self, gpu: FakeGpu, batch: int, addresses: Mapping[str, Address], scratch: Address) -> None:
        self.runs = 0
        self._gpu = gpu
        self._batch = batch
        self._addresses = addresses
        self._scratch = scratch

    def enqueue(self, stream: Stream) -> None:
        self._gpu.call("enqueue")
        self.runs += 1
        steps = self._steps()
        if self._gpu.capturing is not None:
            self._gpu.capturing.extend(steps)
        else:
            self._gpu.enqueue(stream, *steps)

    def _steps(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Either reads the images, as it happens; between them only scratch memory knows of the run."""
        gpu, size = self._gpu, self._batch * self._gpu.side**2 * 3
        state: dict[str, Any] = {}

        def images() -> NDArray[np.uint8]:
            return gpu.at(self._addresses["image"], size).reshape(self._batch, gpu.side, gpu.side, 3).copy()

        def begin() -> None:
            state["token"] = gpu.noise(512)
            gpu.at(self._scratch, 512)[:] = state["token"]
            state["images"] = images() if gpu.chance.random() < 0.5 else None
            for output in ("logits", "logits_small", "logits_large"):
                self._output(output)[:] = 0xFF  # not a number

        def end() -> None:
            seen = state["images"] if state["images"] is not None else images()
            results = gpu.function(seen)
            if not np.array_equal(gpu.at(self._scratch, 512), state["token"]):
                results = np.full_like(results, np.nan)  # another run used it meanwhile
            for output, result in zip(("logits", "logits_small", "logits_large"), results, strict=True):
                self._output(output)[:] = np.ascontiguousarray(result, np.float32).view(np.uint8).reshape(-1)
            gpu.ran.append(self._batch)

        return begin, end

    def _output(self, name: str) -> NDArray[np.uint8]:
        return self._gpu.at(self._addresses[name], self._batch * self._gpu.classes * 4)
