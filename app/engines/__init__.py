"""Engines run a bundle's graph."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime, once imported, tells Microsoft of its use
