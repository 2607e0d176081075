"""Weights to ONNX to engines; every script proves its product against PyTorch. Nothing here is imported by `app`."""
