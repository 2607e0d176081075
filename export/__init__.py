"""Weights to ONNX to engines; every script compares its product with float32. `app` imports nothing from here."""

import os
import sys

# Otherwise ONNX Runtime reports its use to Microsoft, and OpenVINO and NNCF to Google, as soon as they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
