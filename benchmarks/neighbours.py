"""What embeddings are worth: `python -m benchmarks.neighbours DATA --bundle BUNDLE`.

Each labelled image is classified by its nearest other images of DATA: by the cosine of their embeddings, of both
branches or of one, or of their pixels. The share of right ones stands beside chance and beside the network's own best
class. Reports only.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from PIL import Image

from app.commands.evaluate.class_mapping import match_classes
from app.commands.evaluate.evaluation import sample
from app.commands.inspect_files import offline_inspection
from app.configuration.settings import Settings
from app.inspection.inspector import InspectedImage
from app.serving.offline_model import run_in_order
from benchmarks.command_line import BundlePath, run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from bundle.reader import Bundle, open_bundle
from model.dataset import Dataset

IN_FLIGHT = 32
PIXEL_SIDE = 16  # of the pictures whose pixels are compared
NEIGHBOURS = (1, 5)
_BLOCK = 500  # rows of the matrix of similarities at a time

Vectors = NDArray[np.float32]  # (images, numbers)


def neighbours(
    data: Annotated[list[Path], typer.Argument(help="folders, zip files or WebDataset's tar files")],
    bundle: BundlePath,
    limit: Annotated[int, typer.Option(min=2, help="so many images, evenly spread, always the same")] = 2000,
) -> None:
    """Classify labelled images by their nearest neighbours among the others."""
    images, opened = Dataset(data), open_bundle(bundle)
    indices = sample(len(images), limit)
    names = [images.items[index].category for index in indices]
    matches = match_classes(set(names), opened.labels)
    classes = np.array([matches[name].index for name in names])
    bodies = [images.read(index) for index in indices]
    found = asyncio.run(_inspected(opened, bodies))
    small, large = (np.stack([image.embeddings[branch] for image in found]) for branch in (0, 1))
    vectors = {
        "embedding, both branches": np.concatenate([small, large], axis=1),
        "embedding, small branch": small,
        "embedding, large branch": large,
        f"pixels, {PIXEL_SIDE} x {PIXEL_SIDE}": np.stack([_pixels(body) for body in bodies]),
    }
    rows = [{"by": name} | _shares(cosine(values), classes) for name, values in vectors.items()]
    own = np.mean([image.outputs[0].argmax() == number for image, number in zip(found, classes, strict=True)])
    rows.append({"by": "the network's own best class", "1 nearest": f"{own:.1%}"})
    rows.append({"by": "chance", "1 nearest": f"{_chance(classes):.1%}"})
    print(f"{opened.name}, {len(indices)} images of {len(set(names))} classes; {machine()}\n")
    print_table(pd.DataFrame(rows))


async def _inspected(bundle: Bundle, bodies: Iterable[bytes]) -> list[InspectedImage]:
    resolution = bundle.manifest.default_resolution
    async with offline_inspection(bundle, Settings()) as inspection:
        work = (inspection.embed([body], resolution) for body in bodies)
        return [answer.image async for (answer,) in run_in_order(work, IN_FLIGHT)]


def _pixels(body: bytes) -> Vectors:
    """The colours of the picture, the mean taken away, so that brightness alone makes no two alike."""
    with Image.open(BytesIO(body)) as image:
        small = np.asarray(image.convert("RGB").resize((PIXEL_SIDE, PIXEL_SIDE), Image.Resampling.BOX), np.float32)
    pixels: Vectors = (small - small.mean()).reshape(-1)
    return pixels


def cosine(vectors: Vectors) -> Vectors:
    """The similarity of each two of `vectors` (n, n), and -1 of each with itself."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity: Vectors = np.concatenate(
        [unit[start : start + _BLOCK] @ unit.T for start in range(0, len(unit), _BLOCK)]
    )
    np.fill_diagonal(similarity, -1)
    return similarity


def _shares(similarity: Vectors, classes: NDArray[np.int64]) -> dict[str, str]:
    return {f"{count} nearest": f"{right_share(similarity, classes, count):.1%}" for count in NEIGHBOURS}


def right_share(similarity: Vectors, classes: NDArray[np.int64], count: int) -> float:
    """The share of images whose class most of their `count` nearest ones have; of equal counts the nearer one's."""
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    votes = [Counter(classes[row].tolist()).most_common(1)[0][0] for row in nearest]
    return float(np.mean(np.array(votes) == classes))


def _chance(classes: NDArray[np.int64]) -> float:
    """The share of right ones if each image had the class of another one, taken at random."""
    counts = np.array(list(Counter(classes.tolist()).values()))
    return float((counts * (counts - 1)).sum() / (len(classes) * (len(classes) - 1)))


if __name__ == "__main__":
    run(neighbours, program="benchmarks.neighbours")
