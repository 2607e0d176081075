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
import pandas as pd
from numpy.typing import NDArray

from app.decoding.image_decoding import decode
from app.engines.gpu_jpeg.jpeg_decoder import JpegDecoder
from app.engines.gpu_jpeg.jpeg_device import JpegDevice
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
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

    difference = np.abs(pixels - expected.astype(np.int16))
    ours, theirs = (_logits(options.bundle / "model.onnx", images) for images in (pixels, expected))
    rates = _rates(decoder, [bodies[index] for index in done], options.batch, steps)
    rows = {
        "decoded by it": f"{len(done)} of {len(bodies)}",
        "pixels, mean and largest difference in levels": f"{difference.mean():.4f}, {difference.max()}",
        "same best class as with app.decoding.image_decoding": f"{(ours.argmax(1) == theirs.argmax(1)).mean():.1%}",
        f"logits, largest difference, of a scale of {theirs.std():.2f}": f"{np.abs(ours - theirs).max():.2g}",
        f"images/s, batches of {options.batch}": f"{rates[0]:.0f}",
        "images/s, app.decoding.image_decoding on one core": f"{rates[1]:.0f}",
    }
    print(f"{options.bundle.name} at {options.resolution}, {len(bodies)} photographs; {machine()}\n")
    print_table(pd.DataFrame(rows.items(), columns=["", f"by the {options.device}"]))
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


def _logits(graph: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batches = [images[start : start + 8] for start in range(0, len(images), 8)]
    return np.concatenate([session.run(["logits"], {"image": batch})[0] for batch in batches])


def _rates(decoder: JpegDecoder, bodies: Sequence[bytes], batch: int, steps: Preprocessing) -> tuple[float, float]:
    """Images a second of `decoder` and of one core: the best of a few rounds each, taken in turns."""
    batches = [bodies[start : start + batch] for start in range(0, len(bodies), batch)]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for images in batches:
            decoder.decode(images)
        between = time.perf_counter()
        for body in bodies:
            decode(body, steps, MAX_PIXELS)
        seconds.append((between - started, time.perf_counter() - between))
    gpu, cpu = len(bodies) / np.min(seconds, axis=0)
    return float(gpu), float(cpu)


if __name__ == "__main__":
    main()
