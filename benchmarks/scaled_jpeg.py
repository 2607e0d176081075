"""`--scaled-jpeg` against full decoding: `python -m benchmarks.scaled_jpeg PHOTOS --bundle BUNDLE`.

Takes the photographs that are large enough to be decoded smaller, and reports how far their pixels and the network's
answers are from those of full decoding. For comparison it changes every pixel by a random level: a similar difference
is rounding. The network takes other sides too: at `--resize 64 --crop 64` photographs of 256 pixels are large. Then it
reports times, for these photographs and for frames of 2 and 12 megapixels. The frames are enlarged photographs, so they
are evidence for times only. Prints Markdown, and reports only.
"""

import argparse
import statistics
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from model.spec import Preprocessing

MAX_PIXELS = 50_000_000
ROUNDS = 5
FRAMES = [(1600, 1200), (4000, 3000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEGs, of any sizes")
    parser.add_argument("--bundle", type=Path, nargs="+", required=True)
    parser.add_argument("--resize", type=int, default=256, help="small ones make ordinary photographs large")
    parser.add_argument("--crop", type=int, default=224)
    options = parser.parse_args()
    steps = Preprocessing(options.resize, options.crop)
    bodies = photographs(options.photos)
    full, scaled = (np.stack([pixels(body, steps, scaled=scaled) for body in bodies]) for scaled in (False, True))
    smaller = [index for index in range(len(bodies)) if not np.array_equal(full[index], scaled[index])]
    print(f"Resize {steps.resize}, crop {steps.crop}; {machine()}\n")
    print(f"{len(smaller)} of {len(bodies)} photographs are large enough to be decoded smaller.")
    if smaller:
        compare(full[smaller], scaled[smaller], options.bundle)
    print("\n| JPEG | full, ms | scaled, ms | times as fast |\n|---|---|---|---|")
    if smaller:
        print(times("these photographs", [bodies[index] for index in smaller], steps))
    for size in FRAMES:
        frames = [enlarged(body, size) for body in bodies[:5]]
        print(times(f"{size[0]} x {size[1]}, enlarged photographs", frames, steps))


def pixels(body: bytes, steps: Preprocessing, *, scaled: bool) -> NDArray[np.uint8]:
    return decode(body, steps, MAX_PIXELS, scaled_jpeg=scaled)


def compare(full: NDArray[np.uint8], scaled: NDArray[np.uint8], bundles: list[Path]) -> None:
    difference = np.abs(scaled.astype(np.int16) - full)
    print(f"Their pixels differ by {difference.mean():.2f} levels on average, by {difference.max()} at most.\n")
    # A level up or down, by chance: what rounding to 8 bits may do, and a little more.
    nudged = (full.astype(np.int16) + np.random.default_rng(0).integers(-1, 2, full.shape)).clip(0, 255)
    print("| bundle | pixels | same top-1 | logits' distance by their spread: median, largest |\n|---|---|---|---|")
    for bundle in bundles:
        session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
        exact = logits(session, full)
        for name, images in (("decoded smaller", scaled), ("a level up or down, by chance", nudged.astype(np.uint8))):
            given = logits(session, images)
            same = int((given.argmax(1) == exact.argmax(1)).sum())
            spread = np.linalg.norm(exact - exact.mean(1, keepdims=True), axis=1)
            distance = np.linalg.norm(given - exact, axis=1) / spread
            share = f"{same} of {len(full)}"
            print(f"| {bundle.name} | {name} | {share} | {np.median(distance):.2%}, {distance.max():.2%} |")


def logits(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in images])


def enlarged(body: bytes, size: tuple[int, int]) -> bytes:
    with Image.open(BytesIO(body)) as image:
        file = BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def times(name: str, bodies: list[bytes], steps: Preprocessing) -> str:
    """Medians of a few rounds, taken in turns."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for scaled, found in seconds.items():
            started = time.perf_counter()
            for body in bodies:
                pixels(body, steps, scaled=scaled)
            found.append((time.perf_counter() - started) / len(bodies))
    full, fast = (1000 * statistics.median(found) for found in seconds.values())
    return f"| {name} | {full:.1f} | {fast:.1f} | {full / fast:.1f} |"


if __name__ == "__main__":
    main()
