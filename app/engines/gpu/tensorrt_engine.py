"""TensorRT: runs a plan that `export/to_trt.py` built of the graph for this GPU."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle

import numpy as np

from app.engines.batch_splitting import BatchSplitter
from app.engines.gpu.device import DeviceError, PlanNetwork, Tensor, TensorRTDevice
from app.engines.gpu.transfer_slot import Streams, TransferSlot
from app.engines.interface import Engine, EngineFiles, EngineRefused, TensorRTPlan
from bundle.plan_manifest import PlanManifest
from bundle.tensors import INPUT, OUTPUTS, Images, Outputs

log = logging.getLogger(__name__)

_LANES = 2  # one is copied for while the other runs


def _find() -> TensorRTDevice | None:
    try:
        from app.engines.gpu import cuda_device
    except (ImportError, OSError) as err:  # OSError is how a library is missed that Python loads by hand
        if isinstance(err, ModuleNotFoundError) and err.name == "tensorrt":
            raise  # it is not installed: nobody expects it to serve
        raise EngineRefused(f"TensorRT is installed, but cannot be used ({err}): pip install 'crossvit[gpu]'") from err
    return cuda_device.find_device()


def offer_tensorrt(
    files: EngineFiles, side: int, find: Callable[[], TensorRTDevice | None] = _find
) -> Iterator[Engine]:
    """An engine for each precision that there is a fitting plan of, half ones first; none without a GPU.

    ImportError without TensorRT. Refused if it and a GPU are here, but no plan fits, with the command that builds one.
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
    for plan in sorted(files.plans, key=lambda plan: _version(plan.passport.tensorrt) != here):  # its own version first
        reason = misfit(plan.passport, gpu, side)
        if reason:
            misfits.append(reason)
        else:
            fitting.setdefault(plan.passport.precision, plan)
    if not fitting:
        reasons = "; ".join(misfits) or "the bundle has no TensorRT plan that fits this resolution"
        raise EngineRefused(f"{reasons}. Build one on this machine: {files.command}")
    for precision in sorted(fitting, key=("fp16", "bf16", "f32").index):
        yield TensorRTEngine(gpu, fitting[precision], files.command)


def misfit(passport: PlanManifest, gpu: TensorRTDevice, side: int) -> str | None:
    """Why the plan cannot run on `gpu` at `side`, None if it can.

    A plan runs on the GPU model and with the TensorRT version that built it. One that was built version-compatible also
    runs with later versions of the same major one.
    """
    plan = f"the plan in {passport.precision}"
    if passport.side != side:
        return f"{plan} is for images of {passport.side} pixels, not {side}"
    built_for = f"{passport.gpu} (compute capability {passport.compute_capability})"
    here = f"{gpu.name} (compute capability {gpu.compute_capability})"
    if built_for != here:
        return f"{plan} is for {built_for}, and this is {here}"
    built, runs = _version(passport.tensorrt), _version(gpu.tensorrt)
    if built == runs or (passport.version_compatible and built[0] == runs[0] and built < runs):
        return None
    since = " or later" if passport.version_compatible else ""
    return f"{plan} is for TensorRT {passport.tensorrt}{since}, and this is {gpu.tensorrt}"


class TensorRTEngine:
    """Runs `plan` on `gpu`, for which it must be. After a DeviceError it runs nothing more; `close` it.

    Batches are cut into the plan's batch sizes, which take turns in two lanes. `command` builds the plan again.
    """

    name = "tensorrt"

    def __init__(self, gpu: TensorRTDevice, plan: TensorRTPlan, command: str) -> None:
        self.precision: str = plan.passport.precision
        self.batch = _LANES * max(plan.passport.batch_sizes)  # so that both have something to do
        self._gpu = gpu
        self._plan = plan
        self._command = command
        self._held = ExitStack()
        self._lanes: list[TransferSlot] = []

    def load(self, side: int) -> None:
        """BadBundle if the plan's file is not the one that its passport describes, Refused if what is in it is not."""
        passport = self._plan.passport
        if self._lanes:
            return
        if side != passport.side:
            raise ValueError(f"the plan is for images of {passport.side} pixels, not {side}")
        content = self._plan.read()  # checks it; nothing has looked inside before
        try:
            self._load(content)
        except BaseException:
            self.close()
            raise

    def run(self, images: Images) -> Outputs:
        side = self._plan.passport.side
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"images of {images.dtype} {images.shape} instead of uint8 (batch, {side}, {side}, 3)")
        if not self._lanes:
            raise DeviceError("the engine is not loaded, or has failed")
        outputs = np.empty((len(OUTPUTS), len(images), self._classes), np.float32)
        lanes = self._lanes
        self._lanes = []  # until this has gone well
        for lane, piece in zip(cycle(lanes), self._buckets.pieces(len(images)), strict=False):
            lane.collect()
            lane.submit(images[piece.rows], piece.bucket, outputs[:, piece.rows])
        for lane in lanes:
            lane.collect()
        self._lanes = lanes
        return outputs

    def close(self) -> None:
        """Give everything back, the last taken first. What the GPU does not take back goes with the process."""
        self._lanes = []
        held, self._held = self._held, ExitStack()
        held.callback(self._gpu.drain)  # before anything is given back that the GPU may still be using
        try:
            held.close()
        except DeviceError as err:
            log.warning("the TensorRT engine was not closed cleanly: %s", err)

    def _load(self, content: bytes) -> None:
        gpu, held, passport = self._gpu, self._held, self._plan.passport
        network = held.enter_context(gpu.network(content, host_code=passport.version_compatible))
        self._classes = self._checked(network)
        streams = Streams(*(held.enter_context(gpu.stream()) for _ in range(3)))
        scratch = held.enter_context(gpu.memory(max(1, network.scratch_bytes)))
        profiles = {size: index for index, size in enumerate(passport.batch_sizes)}
        lanes = [
            TransferSlot(
                gpu,
                network,
                streams,
                scratch,
                profiles=profiles,
                side=passport.side,
                classes=self._classes,
                held=held,
            )
            for _ in range(_LANES)
        ]
        self._buckets = BatchSplitter({size: lanes[0].seconds(size) for size in passport.batch_sizes})
        self._lanes = lanes
        self.run(np.zeros((1, passport.side, passport.side, 3), np.uint8))

    def _checked(self, network: PlanNetwork) -> int:
        """The number of classes, if the network is what its passport says; Refused otherwise."""
        passport = self._plan.passport
        shape = (passport.side, passport.side, 3)
        classes = next((tensor.shape[-1] for tensor in network.tensors.values() if not tensor.is_input), 0)
        expected = {INPUT: Tensor("uint8", shape, True)}
        expected |= {name: Tensor("float32", (classes,), False) for name in OUTPUTS}
        sizes = zip(passport.least_sizes or passport.batch_sizes, passport.batch_sizes, strict=False)
        profiles = [((least, *shape), (size, *shape), (size, *shape)) for least, size in sizes]
        if classes < 1 or network.tensors != expected or network.profiles != profiles:
            raise EngineRefused(
                f"the plan is not what its passport says: it has {network.tensors} and profiles {network.profiles}. "
                f"Build it again: {self._command}"
            )
        return classes


def _version(text: str) -> tuple[int, ...]:
    """Of the libraries: what ends in .post1 packages the same ones again."""
    return tuple(int(part) for part in text.partition(".post")[0].split("."))
