"""Plans as they lie in a bundle. There is no TensorRT that could build one: what is in them means nothing."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support.agreements import GOOD

PLAN = b"what TensorRT would have written"


def passport(graph: bytes, plan: bytes = PLAN, **changes: Any) -> dict[str, Any]:
    """The passport of `plan` for resolution 224 of the bundle with `graph`, as export/to_trt.py writes it."""
    return {
        "format": 1,
        "resolution": 224,
        "side": 224,
        "precision": "fp16",
        "batch_sizes": [1, 8, 32],
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "plan_bytes": len(plan),
        "tensorrt": "10.16.1.11",
        "version_compatible": False,
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "driver": "580.159.04",
        "cuda": "13.0",
        "optimization_level": 3,
        "proof": [GOOD.model_dump()],
    } | changes


def put_plan(bundle: Path, name: str = "224-fp16-gpu-trt10", plan: bytes = PLAN, **changes: Any) -> Path:
    """Put `plan` into the bundle under `name`; its folder."""
    folder = bundle / "engines" / name
    folder.mkdir(parents=True)
    (folder / "plan").write_bytes(plan)
    (folder / "passport.json").write_text(json.dumps(passport((bundle / "model.onnx").read_bytes(), plan, **changes)))
    return folder
