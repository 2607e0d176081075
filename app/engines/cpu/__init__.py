"""Engines for CPUs: OpenVINO and ONNX Runtime.

Enters: pixels, uint8 RGB (batch, side, side, 3). Leaves: logits, float32 (outputs, batch, classes).
Runs in: an engine process.
"""
