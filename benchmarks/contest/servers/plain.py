"""The simplest service: FastAPI and the network in PyTorch eager mode, float32.

`python -m benchmarks.contest.servers.plain BUNDLE WEIGHTS PORT`.
"""

import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.contest.pytorch import served_network
from benchmarks.contest.servers.preprocess import pixels_of

app = FastAPI()
network = served_network(Path(sys.argv[1]), sys.argv[2])


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
    uvicorn.run(app, port=int(sys.argv[3]), log_level="warning")
