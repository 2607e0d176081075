"""ONNX Runtime on an NVIDIA GPU: its CUDA provider, or TensorRT through it.

Each batch size, called bucket, has a session with all shapes fixed. ONNX Runtime folds what is computed from a shape
only if it knows all of that shape: with the batch left open, this arithmetic stays on the CPU with copies to and fro,
which rules a CUDA graph out. The price is that each bucket has weights of its own: 90 MB for crossvit_18_dagger in 16
bits.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnxruntime

from app.engines.batch_splitting import BatchSplitter
from app.engines.compiled_cache import private_folder
from app.engines.gpu.bound_session import BatchShape, BoundSession, Providers, open_session
from app.engines.gpu.cuda_libraries import gpu_name, load_cuda, load_tensorrt
from app.engines.interface import EngineFiles, EngineRefused, ReadGraph
from bundle.tensors import OUTPUTS, Images, Outputs

log = logging.getLogger(__name__)

# The providers for a graph at a shape, with CUDA graphs or without.
ProvidersFor = Callable[[bytes, BatchShape, bool], Providers]

SIZES = (1, 8, 32, 64)
_MOST_BUCKET_PIXELS = 32 * 480 * 480  # activations take memory: 64 images at 224, 32 at 480
_TIMED_RUNS = 3
_BEST_FIRST = ("fp16", "bf16", "f32")


class OnnxRuntimeCudaEngine:
    """Sessions of ONNX Runtime, one for each bucket.

    Args:
        name: in app.engines.registry.
        precision: of the graph.
        graph: reads the graph.
        providers: for a bucket's session.
        device: where the providers have their memory, as ONNX Runtime calls it.
        sizes: of the buckets.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        graph: ReadGraph,
        providers: ProvidersFor,
        *,
        device: str = "cuda",
        sizes: Sequence[int] = SIZES,
    ) -> None:
        self.name = name
        self.precision = precision
        self.batch = max(sizes)
        self._graph = graph
        self._providers = providers
        self._device = device
        self._sizes = sizes
        self._loaded: dict[int, _Loaded] = {}

    def load(self, side: int) -> None:
        if side not in self._loaded:
            loaded = self._loaded[side] = self._load(side)
            self.batch = max(loaded.buckets)

    def run(self, images: Images) -> Outputs:
        return self._loaded[images.shape[1]].run(images)

    def close(self) -> None:
        self._loaded.clear()

    def _load(self, side: int) -> "_Loaded":
        graph = self._graph()
        buckets: dict[int, BoundSession] = {}
        seconds: dict[int, float] = {}
        for size in fitting(self._sizes, side):
            try:
                buckets[size], seconds[size] = self._bucket(graph, BatchShape(size, side))
            except Exception as err:
                if not buckets or "memory" not in str(err):
                    raise
                log.warning("%s %s: no memory for batches of %d at %d: %s", self.name, self.precision, size, side, err)
                break
        return _Loaded(buckets, BatchSplitter(seconds))

    def _bucket(self, graph: bytes, shape: BatchShape) -> tuple[BoundSession, float]:
        """A bucket that has run, with a CUDA graph if one can be captured, and the seconds that it takes."""
        try:
            return self._warm(graph, shape, captured=True)
        except EngineRefused:
            raise
        except Exception as err:  # when it was opened, since a node has gone to the CPU, or when it first ran
            reason = str(err)  # the error itself holds the session, and so its memory
        warm = self._warm(graph, shape, captured=False)
        log.warning("batches of %d run without a CUDA graph: %s", shape.images, reason)
        return warm

    def _warm(self, graph: bytes, shape: BatchShape, *, captured: bool) -> tuple[BoundSession, float]:
        session = open_session(graph, shape, self._providers(graph, shape, captured))
        bucket = BoundSession(session, shape, self._device)
        return bucket, bucket.seconds(_TIMED_RUNS)


@dataclass(frozen=True)
class _Loaded:
    buckets: dict[int, BoundSession]
    cut: BatchSplitter

    def run(self, images: Images) -> Outputs:
        outputs = np.empty((len(OUTPUTS), len(images), self.buckets[max(self.buckets)].classes), np.float32)
        for piece in self.cut.pieces(len(images)):
            self.buckets[piece.bucket].run(images[piece.rows], outputs[:, piece.rows])
        return outputs


def fitting(sizes: Sequence[int], side: int) -> list[int]:
    """Those of `sizes` that are not too many images of `side`, the smallest in any case, ascending."""
    first, *others = sorted(sizes)
    return [first, *(size for size in others if size * side**2 <= _MOST_BUCKET_PIXELS)]


def offer_onnxruntime_cuda(files: EngineFiles, _: int) -> Iterator[OnnxRuntimeCudaEngine]:
    """An engine for each precision; none where ONNX Runtime has no CUDA provider built in, or no GPU is.

    EngineRefused where there is a GPU, but not the libraries, or where another package hides the provider.
    """
    if _gpu_for("CUDAExecutionProvider") is None:
        return
    load_cuda()
    for precision in _precisions(files):
        yield OnnxRuntimeCudaEngine(
            "onnxruntime-cuda", precision, files.graphs[precision], partial(_on_cuda, precision)
        )


def offer_onnxruntime_tensorrt(files: EngineFiles, _: int) -> Iterator[OnnxRuntimeCudaEngine]:
    """The same with the TensorRT provider. It builds a plan for each bucket, for minutes, and keeps it in a cache.

    Not for float32, which TensorRT rounds to TF32 (see `_on_cuda`); the provider has no option against it.
    """
    gpu = _gpu_for("TensorrtExecutionProvider")
    if gpu is None:
        return
    precisions = [precision for precision in _precisions(files) if precision != "f32"]
    if not precisions:
        raise EngineRefused(
            "TensorRT in ONNX Runtime does not keep to float32, and the bundle has no graph in 16 bits: export one "
            "with `python export/to_onnx.py --variant ... --precision fp16`"
        )
    load_cuda()
    machine = f"{gpu}-ort{onnxruntime.__version__}-trt{load_tensorrt()}"
    for precision in precisions:
        on_tensorrt = partial(_on_tensorrt, precision, re.sub("[^A-Za-z0-9.]+", "-", machine))
        yield OnnxRuntimeCudaEngine("onnxruntime-tensorrt", precision, files.graphs[precision], on_tensorrt)


def _precisions(files: EngineFiles) -> list[str]:
    """Of the graphs' precisions those that a GPU is for, the fastest first."""
    return [precision for precision in _BEST_FIRST if precision in files.graphs]


def _gpu_for(provider: str) -> str | None:
    """The GPU's name if there is one, and `provider` is built in. EngineRefused if onnxruntime hides onnxruntime-gpu.

    Both packages have the same files, so that the one that was installed last is there.
    """
    built_in = onnxruntime.get_available_providers()
    if provider in built_in:
        return gpu_name()
    if "CUDAExecutionProvider" not in built_in and _is_installed("onnxruntime-gpu") and gpu_name() is not None:
        raise EngineRefused(
            "onnxruntime without CUDA was installed over onnxruntime-gpu: pip uninstall onnxruntime, then "
            "pip install --force-reinstall onnxruntime-gpu"
        )
    return None


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _on_cuda(precision: str, _graph: bytes, _shape: BatchShape, captured: bool) -> Providers:
    """The CUDA provider.

    TF32 keeps 10 bits of the fraction, as many as float16: good for what a half graph does in float32 (resizing, the
    heads), but not for what is to be float32.
    """
    options = {
        "enable_cuda_graph": str(captured),
        "use_tf32": str(precision != "f32"),
        "arena_extend_strategy": "kSameAsRequested",  # shapes are fixed, so it will not have to grow
    }
    return [("CUDAExecutionProvider", options)]


def _on_tensorrt(precision: str, machine: str, graph: bytes, shape: BatchShape, captured: bool) -> Providers:
    """The TensorRT provider, and CUDA's for nodes that it does not take. EngineRefused if its plans have no place."""
    digest = hashlib.sha256(graph).hexdigest()
    # It tells plans apart by the names of inputs and outputs, but not by their shapes: so each shape has a folder.
    plans = private_folder("TensorRT's plans", "ort-tensorrt", f"{digest}-{machine}", f"{shape.images}x{shape.side}")
    options = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(plans),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(plans.parent),
        "trt_cuda_graph_enable": str(captured),
        # It does not take types from the graph, but may use 16 bits anywhere once they are allowed.
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_bf16_enable": str(precision == "bf16"),
        "trt_layer_norm_fp32_fallback": "True",
    }
    return [("TensorrtExecutionProvider", options), *_on_cuda(precision, graph, shape, captured=False)]
