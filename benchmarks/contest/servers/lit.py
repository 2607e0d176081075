"""LitServe with batches of 8: `python -m benchmarks.contest.servers.lit pytorch|onnxruntime BUNDLE WEIGHTS PORT`.

Set up as in its documentation: one worker, which also decodes, and requests collected for up to BATCH_SECONDS.
"""

import sys
from pathlib import Path

import litserve
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from benchmarks.contest.servers.common import best_five, pixels_of

BATCH = 8
BATCH_SECONDS = 0.02  # a small part of what a batch takes

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


class Classify(litserve.LitAPI):
    """The network in `runtime`, "pytorch" or "onnxruntime"."""

    def __init__(self, runtime: str, bundle: Path, weights: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS, api_path="/classify")
        self.runtime, self.bundle, self.weights = runtime, bundle, weights

    def setup(self, device: str) -> None:
        del device
        if self.runtime == "pytorch":
            from benchmarks.contest.pytorch import served_network

            self.logits = served_network(self.bundle, self.weights)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(self.bundle / "model.onnx", providers=["CPUExecutionProvider"])
            self.logits = lambda pixels: session.run(["logits"], {"image": pixels})[0]

    def decode_request(self, request: UploadFile) -> Pixels:
        return pixels_of(request.file.read())

    def predict(self, pixels: Pixels) -> Scores:
        return self.logits(pixels)

    def encode_response(self, output: Scores) -> list[tuple[int, float]]:
        return best_five(output)


if __name__ == "__main__":
    runtime, bundle, weights, port = sys.argv[1:]
    # At 64 clients the last in the queue waits for longer than the default of 30 s on a slow machine.
    server = litserve.LitServer(Classify(runtime, Path(bundle), weights), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
