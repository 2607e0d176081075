"""The engines by their names, and the tiers in which they are tried."""

import importlib
import platform
from collections.abc import Callable, Iterable

from app.engines.interface import Engine, EngineFiles
from bundle.precisions import BF16, F32, FP16, INT8, INT8_BF16

ENGINES = {  # the function that offers each, see app.engines.interface
    "tensorrt": "app.engines.gpu.tensorrt_engine:offer_tensorrt",
    "onnxruntime-cuda": "app.engines.gpu.onnxruntime_cuda_engine:offer_onnxruntime_cuda",
    "onnxruntime-tensorrt": "app.engines.gpu.onnxruntime_cuda_engine:offer_onnxruntime_tensorrt",
    "openvino": "app.engines.cpu.openvino_engine:offer_openvino",
    "onnxruntime": "app.engines.cpu.onnxruntime_engine:offer_onnxruntime",
    "null": "app.engines.null_engine:offer_null",
}
PLAN_ENGINE = "tensorrt"  # runs the bundle's plans
NULL_ENGINE = "null"  # computes nothing: for measuring the service
ON_CPU = ("openvino", "onnxruntime")
GPU_ONLY_PRECISIONS = (FP16,)
# A GPU is faster than the CPU beside it, and what was compiled for it than what was not. onnxruntime-tensorrt is in no
# tier: it compiles for minutes at each start, so it has to be asked for. So does the engine that computes nothing.
# On x86-64 OpenVINO was the faster one in all measurements (ADR 3), so that ONNX Runtime is tried where that fails.
_CPU_TIERS = tuple((name,) for name in ON_CPU) if platform.machine() in ("x86_64", "AMD64") else (ON_CPU,)
TIERS: tuple[tuple[str, ...], ...] = ((PLAN_ENGINE,), ("onnxruntime-cuda",), *_CPU_TIERS)
AUTO = "auto"
# Precisions that cannot win where another one works, on CPUs with 8-bit dot products: the rest of the graph is alike.
SLOWER_THAN = {F32: INT8, BF16: INT8_BF16}


def offered_engines(name: str, files: EngineFiles, side: int) -> list[Engine]:
    """The engines called `name` for `files` at `side`, not loaded yet, the one that is likely the fastest first.

    Imports the engine's library: ImportError, and what the library raises; EngineRefused as app.engines.interface says.
    """
    module, _, function = ENGINES[name].partition(":")
    offers: Callable[[EngineFiles, int], Iterable[Engine]] = getattr(importlib.import_module(module), function)
    return list(offers(files, side))
