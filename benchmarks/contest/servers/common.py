"""What the services beside this one have in common: the paper's preprocessing as it is usually written, and answers."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels_of(body: bytes) -> NDArray[np.uint8]:
    """RGB (224, 224, 3): the shorter side to 256, then the centre."""
    image = Image.open(BytesIO(body)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.array(image.crop((left, top, left + 224, top + 224)))


def best_five(logits: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Classes and their scores."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return [(int(index), float(scores[index])) for index in np.argsort(-logits)[:5]]
