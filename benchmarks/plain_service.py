"""What one would write without this project: FastAPI and the network in PyTorch eager mode, float32.

The weights are random: they do not change the time. Run by benchmarks/service.py.
"""

import sys
from io import BytesIO

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD, variant_named

app = FastAPI()
network = CrossViT(variant_named(sys.argv[1])).eval()
mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))


@app.post("/classify")
async def classify(file: UploadFile) -> list[tuple[int, float]]:
    image = Image.open(BytesIO(await file.read())).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.array(image.crop((left, top, left + 224, top + 224)))
    images = ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std).unsqueeze(0)
    with torch.inference_mode():
        scores, indices = network(images).softmax(-1)[0].topk(5)
    return list(zip(indices.tolist(), scores.tolist(), strict=True))


@app.get("/readyz")
async def readyz() -> str:
    return "ready"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
