"""The simplest service: FastAPI and the network in PyTorch eager mode, float32.

`python -m benchmarks.cpu.servers.plain BUNDLE PORT`. The weights are random: they do not change the time.
"""

import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.cpu.network import peer_network
from benchmarks.cpu.servers.preprocess import pixels_of
from benchmarks.gpu.pytorch import Pixels

app = FastAPI()
network = Pixels(peer_network(Path(sys.argv[1]).name, 224)[0], torch.float32)


@app.post("/classify")
async def classify(file: UploadFile) -> list[tuple[int, float]]:
    pixels = pixels_of(await file.read())
    with torch.inference_mode():
        scores, indices = network(torch.from_numpy(pixels).unsqueeze(0)).softmax(-1)[0].topk(5)
    return list(zip(indices.tolist(), scores.tolist(), strict=True))


@app.get("/health")
async def health() -> str:
    return "ready"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
