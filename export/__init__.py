"""Weights to ONNX to engines; every script proves its product against PyTorch. Nothing here is imported by `app`."""

import os
import sys

# Else ONNX Runtime tells Microsoft of its use, and OpenVINO and NNCF tell Google, from their import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
