"""TensorRT: runs a plan that `export/to_trt.py` built of the graph for this GPU."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from app.engines.batch_splitting import BatchSplitter
from app.engines.gpu.device import DeviceError, PlanNetwork, Tensor, TensorRTDevice
from app.engines.gpu.slot_self_test import disagreement
from app.engines.gpu.transfer_slot import Streams, TransferSlot
from app.engines.interface import Engine, EngineFiles, EngineRefused, PendingOutputs, TensorRTPlan
from bundle.installation import install_command
from bundle.plan_manifest import PlanManifest
from bundle.tensors import INPUT, OUTPUTS, ImageRows, Images, Outputs

log = logging.getLogger(__name__)

_SLOTS = 2  # images of one are copied while the network runs for the other


def _find() -> TensorRTDevice | None:
    try:
        from app.engines.gpu import cuda_device
    except (ImportError, OSError) as err:  # OSError is how a library is missed that Python loads by hand
        if isinstance(err, ModuleNotFoundError) and err.name == "tensorrt":
            raise  # not installed, so not expected to serve
        raise EngineRefused(f"TensorRT is installed, but cannot be used ({err}): {install_command('gpu')}") from err
    return cuda_device.find_device()


def offer_tensorrt(
    files: EngineFiles, side: int, find: Callable[[], TensorRTDevice | None] = _find
) -> Iterator[Engine]:
    """An engine for each precision that there is a fitting plan of, half ones first; none without a GPU.

    ImportError without TensorRT. EngineRefused, with the command that builds a plan, if it and a GPU are
    here, but no plan fits.
    """
    try:
        gpu = find()
    except DeviceError as err:
        raise EngineRefused(f"the GPU cannot be used: {err}") from err
    if gpu is None:
        return
    fitting: dict[str, TensorRTPlan] = {}
    misfits = []
    here = _version(gpu.tensorrt)
    for plan in sorted(files.plans, key=lambda plan: _version(plan.manifest.tensorrt) != here):  # its own version first
        reason = misfit(plan.manifest, gpu, side)
        if reason:
            misfits.append(reason)
        else:
            fitting.setdefault(plan.manifest.precision, plan)
    if not fitting:
        reasons = "; ".join(misfits) or "the bundle has no TensorRT plan that fits this resolution"
        raise EngineRefused(f"{reasons}. Build one on this machine: {files.command}")
    for precision in sorted(fitting, key=("fp16", "bf16", "f32").index):
        yield TensorRTEngine(gpu, fitting[precision], files.command)


def misfit(manifest: PlanManifest, gpu: TensorRTDevice, side: int) -> str | None:
    """Why the plan cannot run on `gpu` at `side`, None if it can.

    A plan runs on the GPU model and with the TensorRT version that built it. One that was built version-compatible also
    runs with later versions of the same major one.
    """
    plan = f"the plan in {manifest.precision}"
    if manifest.side != side:
        return f"{plan} is for images of {manifest.side} pixels, not {side}"
    built_for = f"{manifest.gpu} (compute capability {manifest.compute_capability})"
    here = f"{gpu.name} (compute capability {gpu.compute_capability})"
    if built_for != here:
        return f"{plan} is for {built_for}, and this is {here}"
    built, runs = _version(manifest.tensorrt), _version(gpu.tensorrt)
    if built == runs or (manifest.version_compatible and built[0] == runs[0] and built < runs):
        return None
    since = " or later" if manifest.version_compatible else ""
    return f"{plan} is for TensorRT {manifest.tensorrt}{since}, and this is {gpu.tensorrt}"


class TensorRTEngine:
    """Runs `plan` on `gpu`, for which it must be. After a DeviceError it runs nothing more; `close` it.

    Batches are cut into the plan's batch sizes, which take turns in two slots. `command` builds the plan again.
    """

    name = "tensorrt"

    def __init__(self, gpu: TensorRTDevice, plan: TensorRTPlan, command: str) -> None:
        self.precision: str = plan.manifest.precision
        self.batch = _SLOTS * max(plan.manifest.batch_sizes)  # so that both slots have something to do
        self._gpu = gpu
        self._plan = plan
        self._command = command
        self._held = ExitStack()
        self._slots: deque[TransferSlot] = deque()  # those that run, the one that is to be used next first

    def load(self, side: int) -> None:
        """Load the plan, and see that every batch size answers the same in every slot; EngineRefused if one does not.

        BadBundle if the plan's file is not what its manifest describes, EngineRefused if its network is not.
        """
        manifest = self._plan.manifest
        if self._slots:
            return
        if side != manifest.side:
            raise ValueError(f"the plan is for images of {manifest.side} pixels, not {side}")
        content = self._plan.read()  # checks it; nothing has looked inside before
        try:
            self._load(content)
        except BaseException:
            self.close()
            raise

    def run(self, images: Images) -> Outputs:
        return self.begin(images).outputs()

    def begin(self, images: ImageRows) -> PendingOutputs:
        side = self._plan.manifest.side
        for image in images:
            if image.dtype != np.uint8 or image.shape != (side, side, 3):
                raise ValueError(f"an image of {image.dtype} {image.shape} instead of uint8 ({side}, {side}, 3)")
        outputs = np.empty((len(OUTPUTS), len(images), self._classes if self._slots else 0), np.float32)
        with self._working() as slots:
            return _Pending(self._working, outputs, list(self._submitted(images, outputs, slots)))

    def _submitted(
        self, images: ImageRows, outputs: Outputs, slots: deque[TransferSlot]
    ) -> Iterator[tuple[TransferSlot, Outputs]]:
        """Each piece's slot, and where its logits go. A slot is free once its piece before was collected."""
        for piece in self._buckets.pieces(len(images)):
            slot = slots[0]
            slots.rotate(-1)
            slot.collect()
            rows = outputs[:, piece.rows]
            slot.submit(images[piece.rows], piece.bucket, rows)
            yield slot, rows

    @contextmanager
    def _working(self) -> Iterator[deque[TransferSlot]]:
        """The slots, the one that is to be used next first; the engine has failed unless the block succeeds."""
        if not self._slots:
            raise DeviceError("the engine is not loaded, or has failed")
        slots, self._slots = self._slots, deque()
        yield slots
        self._slots = slots

    def close(self) -> None:
        """Give everything back, the last taken first. What the GPU does not take back is free when the process ends."""
        self._slots = deque()
        held, self._held = self._held, ExitStack()
        held.callback(self._gpu.drain)  # before anything is given back that the GPU may still be using
        try:
            held.close()
        except DeviceError as err:
            log.warning("the TensorRT engine was not closed cleanly: %s", err)

    def _load(self, content: bytes) -> None:
        gpu, held, manifest = self._gpu, self._held, self._plan.manifest
        network = held.enter_context(gpu.network(content, host_code=manifest.version_compatible))
        self._classes = self._checked(network)
        streams = Streams(*(held.enter_context(gpu.stream()) for _ in range(3)))
        scratch = held.enter_context(gpu.memory(max(1, network.scratch_bytes)))
        profiles = {size: index for index, size in enumerate(manifest.batch_sizes)}
        slots = [
            TransferSlot(
                gpu,
                network,
                streams,
                scratch,
                profiles=profiles,
                side=manifest.side,
                classes=self._classes,
                held=held,
            )
            for _ in range(_SLOTS)
        ]
        seconds = {size: slots[0].network_seconds(size) for size in manifest.batch_sizes}
        self._buckets = BatchSplitter(seconds, slots[0].copy_seconds())
        self._slots = deque(slots)
        fault = disagreement(slots, manifest.batch_sizes, manifest.side, self.precision, run=self.run, most=self.batch)
        if fault:
            raise EngineRefused(f"the plan does not run as it was built: {fault}. Build it again: {self._command}")

    def _checked(self, network: PlanNetwork) -> int:
        """The number of classes, if the network is what its manifest says; EngineRefused otherwise."""
        manifest = self._plan.manifest
        shape = (manifest.side, manifest.side, 3)
        classes = next((tensor.shape[-1] for tensor in network.tensors.values() if not tensor.is_input), 0)
        expected = {INPUT: Tensor("uint8", shape, True)}
        expected |= {name: Tensor("float32", (classes,), False) for name in OUTPUTS}
        sizes = zip(manifest.least_sizes or manifest.batch_sizes, manifest.batch_sizes, strict=False)
        profiles = [((least, *shape), (size, *shape), (size, *shape)) for least, size in sizes]
        if classes < 1 or network.tensors != expected or network.profiles != profiles:
            raise EngineRefused(
                f"the plan is not what its manifest says: it has {network.tensors} and profiles {network.profiles}. "
                f"Build it again: {self._command}"
            )
        return classes


@dataclass(eq=False)
class _Pending:
    """The logits of a call, whose pieces are in slots; later calls may have collected some already."""

    working: Callable[[], AbstractContextManager[object]]
    logits: Outputs
    pieces: list[tuple[TransferSlot, Outputs]]
    error: DeviceError | None = None  # for `outputs` to raise

    def ready(self) -> bool:
        try:
            with self.working():
                return all(slot.done() for slot, rows in self.pieces if slot.awaits(rows))
        except DeviceError as err:
            self.error = err
            return True

    def outputs(self) -> Outputs:
        if self.error is not None:
            raise self.error
        with self.working():
            for slot, rows in self.pieces:
                if slot.awaits(rows):
                    slot.collect()
        return self.logits


def _version(text: str) -> tuple[int, ...]:
    """The version of the libraries: .post1 packages the same ones again."""
    return tuple(int(part) for part in text.partition(".post")[0].split("."))
