"""LitServe with batches of 8: `python -m benchmarks.contest.servers.lit pytorch|onnxruntime BUNDLE WEIGHTS PORT`.

Set up as in its documentation: one worker, which also decodes, and requests collected for up to BATCH_SECONDS.
"""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from benchmarks.contest.servers.preprocess import pixels_of

BATCH = 8
BATCH_SECONDS = 0.02  # a small part of what a batch takes

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Classify(litserve.LitAPI):
    """What both runtimes share; `setup` makes `self.logits` of a batch of pixels."""

    def __init__(self, bundle: Path, weights: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS, api_path="/classify")
        self.bundle, self.weights = bundle, weights

    def decode_request(self, request: UploadFile) -> Pixels:
        return pixels_of(request.file.read())

    def batch(self, inputs: list[Pixels]) -> Pixels:
        return np.stack(inputs)

    def unbatch(self, output: Scores) -> list[Scores]:
        return list(output)

    def encode_response(self, output: Scores) -> list[tuple[int, float]]:
        best = np.argsort(-output)[:5]
        scores = np.exp(output - output.max())
        scores /= scores.sum()
        return [(int(index), float(scores[index])) for index in best]


class PyTorch(Classify):
    def setup(self, device: str) -> None:
        from benchmarks.contest.pytorch import served_network

        self.network = served_network(self.bundle, self.weights).to(device)

    def predict(self, pixels: Pixels) -> Scores:
        import torch

        with torch.inference_mode():
            logits: Scores = self.network(torch.from_numpy(pixels)).numpy()
        return logits


class OnnxRuntime(Classify):
    def setup(self, device: str) -> None:
        import onnxruntime

        del device
        self.session = onnxruntime.InferenceSession(self.bundle / "model.onnx", providers=["CPUExecutionProvider"])

    def predict(self, pixels: Pixels) -> Scores:
        logits: Scores = self.session.run(["logits"], {"image": pixels})[0]
        return logits


APIS: dict[str, Any] = {"pytorch": PyTorch, "onnxruntime": OnnxRuntime}

if __name__ == "__main__":
    # At 64 clients the last in the queue waits for longer than the default of 30 s on a slow machine.
    server = litserve.LitServer(APIS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3]), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[4]), log_level="warning", generate_client_file=False)
