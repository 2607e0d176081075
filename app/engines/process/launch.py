"""Starting an engine: from a bundle to a process that holds one and has given the golden logits. Blocking."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from app.engines.selection import AUTO
from app.errors import DeviceLost
from app.processes.channel import EMPTY_REPLY
from app.processes.shared_buffer import SharedBuffer
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from bundle.reader import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRequest:
    """What may be started; see app.engines.selection.choose. `jpegs` are the most pixels of a JPEG that it decodes too."""

    engine: str
    precision: str
    prefer: tuple[str, str] | None = None
    skip: Mapping[str, str] = field(default_factory=dict)
    jpegs: int | None = None


@dataclass(frozen=True)
class EngineInfo:
    """An engine that runs; `refused` says of others that could be expected to why they do not.

    `image_seconds` is what one of the golden images took. It decodes JPEGs if it was to, or `no_jpegs` says why not.
    """

    name: str
    precision: str
    batch: int
    refused: dict[str, str]
    image_seconds: float
    no_jpegs: str | None = None


def start_engine(
    bundle: Bundle,
    resolution: int,
    wish: EngineRequest,
    tray: SharedBuffer,
    *,
    seconds: float,
    on_spawn: Callable[[Worker], None],
) -> EngineInfo:
    """An engine as in `wish` for `resolution`, each attempt within `seconds`. What it is to run lies on `tray`.

    `on_spawn` is told of each process, so that it can be killed; the last one has the engine. Where any engine will do,
    one that ends its process, hangs or fails on its device is passed over as one that says no is, in a process that it
    had no part in; so is decoding JPEGs, whatever the engine. Raises what choose does, and what Worker does.
    """
    skip = dict(wish.skip)
    gave_up: str | None = None
    afresh = False
    while True:
        with _Trail() as trail:
            try:
                started = _start(bundle, resolution, wish, skip, trail, tray, seconds, on_spawn, afresh=afresh)
                return replace(started, no_jpegs=gave_up or started.no_jpegs)
            except _Compiled:
                # A process that reads what was compiled takes two thirds of the memory of the one that compiled it.
                afresh = True
            except _JpegsFailed as err:
                gave_up = str(err)
                wish = replace(wish, jpegs=None)
            except (WorkerDied, WorkerHung, DeviceLost) as err:
                tried = trail.last()
                if wish.engine != AUTO or tried is None or tried in skip:
                    raise
                lost = isinstance(err, DeviceLost)
                skip[tried] = str(err) if lost else f"its process failed while it was started: {err}"


class _Compiled(Exception):
    """The engine works, in a process that has compiled it for the next ones."""


class _JpegsFailed(Exception):
    """After it was tried whether JPEGs can be decoded, the engine does not work; `args[0]` is a reason to show."""


def _start(
    bundle: Bundle,
    resolution: int,
    wish: EngineRequest,
    skip: Mapping[str, str],
    trail: "_Trail",
    tray: SharedBuffer,
    seconds: float,
    on_spawn: Callable[[Worker], None],
    *,
    afresh: bool,
) -> EngineInfo:
    golden = bundle.golden(resolution)
    which = "" if resolution == bundle.manifest.default_resolution else f" {resolution}"
    plans = bundle.plans.fit.get(resolution, [])
    worker = Worker(
        f"engine {bundle.name}{which}",
        "app.engines.process.engine_host:EngineHost",
        [
            {precision: bundle.graph_sha256(precision) for precision in bundle.graphs},
            [plan.passport.model_dump_json() for plan in plans],
            bundle.plans.unfit.get(resolution, []),
            bundle.plan_command(resolution),
            bundle.agreement(resolution),
        ],
        seconds=seconds,
        files=[*bundle.graphs.values(), *(plan.file for plan in plans), trail.file, tray.file],
        keep_environment=True,
        on_spawn=on_spawn,
    )
    try:
        asked = [wish.engine, wish.precision, wish.prefer, skip]
        (name, precision, batch, refused, image_seconds, compiled), _ = worker.call(
            "start", asked, [golden.images, golden.logits], seconds=seconds, reply=EMPTY_REPLY
        )
        if compiled and not afresh:
            raise _Compiled
        no_jpegs = None
        if wish.jpegs is not None:
            no_jpegs = _try_jpegs(worker, bundle, resolution, wish.jpegs, tray, seconds)
    except BaseException:
        worker.kill()
        raise
    return EngineInfo(name, precision, batch, refused, image_seconds, no_jpegs)


def _try_jpegs(
    worker: Worker, bundle: Bundle, resolution: int, max_pixels: int, tray: SharedBuffer, seconds: float
) -> str | None:
    """Why the engine cannot decode JPEGs too, or None. Raises _JpegsFailed if it runs nothing any more after that."""
    steps, golden = bundle.manifest.preprocessing[resolution], bundle.golden(resolution)
    reason: str | None = None
    try:
        (reason,), _ = worker.call(
            "decode_jpegs", [steps.resize, steps.crop, max_pixels], [], seconds=seconds, reply=EMPTY_REPLY
        )
        tray.array(*golden.images.shape)[...] = golden.images
        worker.call("run", [golden.images.shape], [], seconds=seconds)
    except (WorkerDied, WorkerHung, WorkerFailed) as err:
        log.warning("%s at %d: the engine failed when JPEGs were tried: %s", bundle.name, resolution, err)
        last_line = str(err).strip().rpartition("\n")[2]
        raise _JpegsFailed(reason or f"the engine's process failed when it was tried: {last_line}") from err
    return reason


class _Trail:
    """A pipe on which the worker says which engine it tries next, to be read when it can say nothing any more."""

    def __enter__(self) -> "_Trail":
        self._held = ExitStack()
        self._reader, self.file = os.pipe()
        for end in (self._reader, self.file):
            self._held.callback(os.close, end)
        os.set_blocking(self._reader, False)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def last(self) -> str | None:
        """The engine that was tried last, if one was."""
        try:
            return os.read(self._reader, 1 << 16).decode().split()[-1]
        except (BlockingIOError, IndexError):
            return None
