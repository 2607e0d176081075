"""JPEGs decoded on the GPU against the CPU: `python -m benchmarks.jpeg PHOTOS --bundle BUNDLE --device gpu`.

Reports how many photographs the GPU decodes, how far its pixels and the network's answers are from those of
the CPU's decoders, and how long both take. With `--device cpu` nvImageCodec's decoder for the CPU and the kernels
compiled by g++ replace the GPU: agreement is then that of the resizing, not of the GPU's own decoder, and times mean
nothing.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.decoding.image_decoding import decode
from app.engines.gpu_jpeg.jpeg_decoder import JpegDecoder
from app.engines.gpu_jpeg.jpeg_device import JpegDevice
from benchmarks.machine import line as machine
from benchmarks.photographs import photographs
from model.spec import PREPROCESSING, Preprocessing

MAX_PIXELS = 50_000_000
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--resolution", type=int, choices=list(PREPROCESSING), default=224)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    steps = PREPROCESSING[options.resolution]
    bodies = photographs(options.photos)
    decoder = JpegDecoder(_gpu(options.device), steps, MAX_PIXELS)
    done, pixels = _by_gpu(decoder, bodies, options.batch, steps)
    expected = np.stack([decode(bodies[index], steps, MAX_PIXELS) for index in done])

    print(f"{options.bundle.name} at {options.resolution}, {len(bodies)} photographs; {machine()}\n")
    print(f"| way of the {options.device} | |\n|---|---|")
    print(f"| decoded by it | {len(done)} of {len(bodies)} |")
    difference = np.abs(pixels - expected.astype(np.int16))
    print(f"| pixels, mean and largest difference in levels | {difference.mean():.4f}, {difference.max()} |")
    _compare_answers(options.bundle / "model.onnx", pixels, expected)
    _compare_times(decoder, [bodies[index] for index in done], options.batch, steps)
    decoder.close()


def _gpu(device: str) -> JpegDevice:
    try:
        from app.engines.gpu_jpeg import nvimagecodec
    except ImportError as err:
        sys.exit(f"error: {err}; pip install -c constraints.txt -e '.[nvimgcodec]' brings the decoder")
    if device == "gpu":
        gpu = nvimagecodec.find_jpeg_device()
        return gpu if gpu is not None else sys.exit("no GPU is here; --device cpu does without")
    from tests.support.kernel_on_cpu import KernelOnCpu, compiled

    with tempfile.TemporaryDirectory() as folder:
        kernels = compiled(Path(folder))
    if kernels is None:
        sys.exit("--device cpu needs g++")
    stand_in = KernelOnCpu(kernels)
    stand_in.decode = nvimagecodec.Codec(gpu=False).decode  # type: ignore[method-assign]
    return stand_in


def _by_gpu(
    decoder: JpegDecoder, bodies: Sequence[bytes], batch: int, steps: Preprocessing
) -> tuple[list[int], NDArray[np.uint8]]:
    """The indices of what was decoded, and the pixels of these."""
    done: list[int] = []
    pixels = [np.empty((0, steps.crop, steps.crop, 3), np.uint8)]
    for start in range(0, len(bodies), batch):
        found = decoder.decode(bodies[start : start + batch])
        done += [start + index for index in found]
        pixels.append(decoder.pixels(len(found)))
    return done, np.concatenate(pixels)


def _compare_answers(graph: Path, pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = [images[start : start + 8] for start in range(0, len(images), 8)]
        return np.concatenate([session.run(["logits"], {"image": batch})[0] for batch in batches])

    ours, theirs = logits(pixels), logits(expected)
    agreement = (ours.argmax(1) == theirs.argmax(1)).mean()
    print(f"| top-1 agreement with app.decoding.image_decoding | {agreement:.1%} |")
    print(f"| logits, largest difference, of a scale of {theirs.std():.2f} | {np.abs(ours - theirs).max():.2g} |")


def _compare_times(decoder: JpegDecoder, bodies: Sequence[bytes], batch: int, steps: Preprocessing) -> None:
    """The best of a few rounds each, taken in turns."""
    batches = [bodies[start : start + batch] for start in range(0, len(bodies), batch)]
    best = {"gpu": np.inf, "cpu": np.inf}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for images in batches:
            decoder.decode(images)
        between = time.perf_counter()
        for body in bodies:
            decode(body, steps, MAX_PIXELS)
        best["cpu"] = min(best["cpu"], time.perf_counter() - between)
        best["gpu"] = min(best["gpu"], between - started)
    print(f"| images/s, batches of {batch} | {len(bodies) / best['gpu']:.0f} |")
    print(f"| images/s, app.decoding.image_decoding on one core | {len(bodies) / best['cpu']:.0f} |")


if __name__ == "__main__":
    main()
