"""Engines run a bundle's graph."""

import os
import sys

# Else ONNX Runtime tells Microsoft of its use, and OpenVINO and NNCF tell Google, from their import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
