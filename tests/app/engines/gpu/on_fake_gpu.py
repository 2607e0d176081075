"""The TensorRT engine on the fake GPU, with a network that tells images and outputs apart."""

import hashlib
from typing import Any

import numpy as np

from app.engines.gpu.tensorrt_engine import TensorRTEngine
from app.engines.interface import TensorRTPlan
from bundle.plan_manifest import PlanManifest
from bundle.tensors import OUTPUTS, Images, Outputs
from tests.app.engines.gpu.fake_gpu import FakeGpu

SIDE = 4
CLASSES = 5
PLAN = b"what TensorRT would take for a plan"


def network(images: Images) -> Outputs:
    """Logits that tell images and outputs apart."""
    pixels = images.reshape(len(images), SIDE * SIDE * 3)[:, :CLASSES].astype(np.float32)
    return np.stack([pixels * (index + 1) + index for index in range(len(OUTPUTS))])


def pictures(count: int, side: int = SIDE, seed: int = 7) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def passport(**changes: Any) -> PlanManifest:
    described: dict[str, Any] = {
        "format": 1,
        "resolution": SIDE,
        "side": SIDE,
        "precision": "fp16",
        "batch_sizes": (1, 8),
        "graph_sha256": "0" * 64,
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "plan_bytes": len(PLAN),
        "tensorrt": "10.16.1.11",
        "version_compatible": False,
        "gpu": "Fake GPU",
        "compute_capability": "9.0",
        "driver": "580.159.04",
        "cuda": "13.0",
    }
    return PlanManifest.model_validate(described | changes)


def fake(batch_sizes: tuple[int, ...] = (1, 8), kind: type[FakeGpu] = FakeGpu, **options: Any) -> FakeGpu:
    return kind(network, batch_sizes, SIDE, CLASSES, **options)


def engine_on(gpu: FakeGpu) -> TensorRTEngine:
    return TensorRTEngine(gpu, TensorRTPlan(passport(batch_sizes=gpu.batch_sizes), lambda: PLAN), "build it")


def loaded(gpu: FakeGpu) -> TensorRTEngine:
    engine = engine_on(gpu)
    engine.load(SIDE)
    return engine


def held(gpu: FakeGpu) -> int:
    return sum(gpu.takes.values())
