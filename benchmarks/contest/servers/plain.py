"""The simplest service: FastAPI and the network in PyTorch eager mode, float32.

`python -m benchmarks.contest.servers.plain BUNDLE WEIGHTS PORT`.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.contest.pytorch import served_network
from benchmarks.contest.servers.common import best_five, pixels_of

app = FastAPI()
logits = served_network(Path(sys.argv[1]), sys.argv[2])


@app.post("/classify")
async def classify(file: UploadFile) -> list[tuple[int, float]]:
    return best_five(logits(pixels_of(await file.read())[None])[0])


@app.get("/health")
async def health() -> str:
    return "ready"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[3]), log_level="warning")
