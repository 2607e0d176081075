"""Engines: the bundle's graph on a CPU or GPU.

Enters: pixels, uint8 RGB (batch, side, side, 3). Leaves: logits, float32 (outputs, batch, classes).
Runs in: one engine process for each resolution. In `engine_process`, `selection`, `launch` and `supervisor` run in the
HTTP process. `gpu_jpeg` has a process of its own, in which JPEGs become pixels.
"""

import os
import sys

# Else ONNX Runtime tells Microsoft of its use, and OpenVINO and NNCF tell Google, from their import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
