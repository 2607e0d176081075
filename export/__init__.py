"""Weights to ONNX to engines; every script proves its product against PyTorch. Nothing here is imported by `app`."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime, once imported, tells Microsoft of its use
