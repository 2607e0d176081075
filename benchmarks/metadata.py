"""The effect of metadata on accuracy: `python -m benchmarks.metadata DATA --bundle BUNDLE [--profile FILE.icc ...]`.

Images of DATA, labelled as for `crossvit evaluate`, are taken as sRGB and converted to other colour spaces: Display P3,
Adobe RGB, ProPhoto RGB, and those of the `--profile` files, such as one for CMYK. Each is then classified twice: with
its profile ignored, as in this service and in timm's and torchvision's loaders, and converted back to sRGB, as in
browsers. The images are also turned and mirrored, as a loader sees files whose Exif orientation it ignores. Prints
Markdown, and reports only.
"""

import argparse
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from operator import methodcaller
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.commands.evaluate.evaluation import sample
from app.decoding.image_decoding import decode
from benchmarks.machine import line as machine
from benchmarks.photographs import matched_classes
from bundle.reader import open_bundle
from model.dataset import Dataset
from model.files.pixels import TRUSTED_MAX_PIXELS
from model.preprocess import rgb_image

See = Callable[[Image.Image], Image.Image]

# Red, green and blue in CIE XYZ, adapted to D50, and the exponent of the tone curve; None for sRGB's curve.
SPACES: dict[str, tuple[list[tuple[float, float, float]], float | None]] = {
    "Display P3": ([(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)], None),
    "Adobe RGB": ([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.19921875),
    "ProPhoto RGB": ([(0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)], 1.8),
}
WHITE = (0.9642, 1.0, 0.8249)
TURNS = {
    "turned by 90 degrees": Image.Transpose.ROTATE_90,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders, zip files or WebDataset's tar files")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--profile", type=Path, nargs="*", default=[], help="ICC profiles of more colour spaces")
    parser.add_argument("--limit", type=int, default=1000, help="so many images, evenly spread")
    options = parser.parse_args()
    data, bundle = Dataset(options.data), open_bundle(options.bundle)
    indices = sample(len(data), options.limit)
    images = [rgb_image(data.read(index)) for index in indices]
    truths = matched_classes(data.categories, bundle.labels)
    expected = np.array([truths[data.items[index].category].index for index in indices])
    steps = bundle.manifest.preprocessing[224]
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])

    def answers(see: See) -> NDArray[np.float32]:
        seen = (decode(as_png(see(image).convert("RGB")), steps, TRUSTED_MAX_PIXELS) for image in images)
        return np.concatenate([session.run(["logits"], {"image": pixels[None]})[0] for pixels in seen])

    print(f"{len(images)} images; {machine()}\n")
    print("| images | top-1 | same best class | logits' distance by their spread, median |\n|---|---|---|---|")
    exact = answers(lambda image: image)
    print(f"| as they are | {(exact.argmax(1) == expected).mean():.1%} | | |")
    for name, see in views(options.profile).items():
        print(row(name, answers(see), exact, expected), flush=True)
    print("\n| converting a profile to sRGB | ms an image |\n|---|---|")
    for name, profile in profiles(options.profile).items():
        print(f"| {name} | {cost(images[:50], profile):.2f} |")


def views(more: Sequence[Path]) -> dict[str, See]:
    """Each way of seeing the images, by its name."""
    found: dict[str, See] = {}
    for name, profile in profiles(more).items():
        there, back = transforms(profile)
        found[f"{name}, profile ignored"] = partial(to, there)
        found[f"{name}, converted back"] = partial(there_and_back, there, back)
    for name, turn in TURNS.items():
        found[name] = methodcaller("transpose", turn)
    return found


def row(name: str, given: NDArray[np.float32], exact: NDArray[np.float32], expected: NDArray[np.int64]) -> str:
    same = (given.argmax(1) == exact.argmax(1)).mean()
    spread = np.linalg.norm(exact - exact.mean(1, keepdims=True), axis=1)
    distance = np.median(np.linalg.norm(given - exact, axis=1) / spread)
    return f"| {name} | {(given.argmax(1) == expected).mean():.1%} | {same:.1%} | {distance:.1%} |"


def to(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    """`image` in another colour space, in which a loader sees it that ignores its profile."""
    found = ImageCms.applyTransform(image, transform)
    assert found is not None  # it is no conversion in place
    return found


def there_and_back(
    there: ImageCms.ImageCmsTransform, back: ImageCms.ImageCmsTransform, image: Image.Image
) -> Image.Image:
    return to(back, to(there, image))


def as_png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def profiles(more: Sequence[Path]) -> dict[str, bytes]:
    made = {name: matrix_profile(*values) for name, values in SPACES.items()}
    return made | {path.stem: path.read_bytes() for path in more}


def transforms(profile: bytes) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform]:
    """From sRGB to the space of `profile`, and back."""
    space = ImageCms.getOpenProfile(BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    mode = {"RGB ": "RGB", "CMYK": "CMYK"}[space.profile.xcolor_space]
    return ImageCms.buildTransform(srgb, space, "RGB", mode), ImageCms.buildTransform(space, srgb, mode, "RGB")


def cost(images: Sequence[Image.Image], profile: bytes) -> float:
    """Milliseconds for an image, the profile's tables included, as each request would need them."""
    there, _ = transforms(profile)
    converted = [to(there, image) for image in images]
    seconds = []
    for image in converted:
        started = time.perf_counter()
        to(transforms(profile)[1], image)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def matrix_profile(primaries: Sequence[Sequence[float]], gamma: float | None) -> bytes:
    """A display profile of three primaries and one tone curve. Source: ICC.1:2001-04, sections 6.1 to 6.5."""

    def fixed(values: Sequence[float]) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))

    if gamma is None:
        x = np.linspace(0, 1, 4096)
        values = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        curve = b"curv\0\0\0\0" + struct.pack(">I", len(x)) + np.round(65535 * values).astype(">u2").tobytes()
    else:
        curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">Hxx", round(256 * gamma))
    points = {
        name: b"XYZ \0\0\0\0" + fixed(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + bytes(78 + 12),
        b"cprt": b"text\0\0\0\0\0\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(WHITE),
        **points,
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, content = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value
    size = start + len(content)
    head = struct.pack(">I4xI", size, 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(WHITE)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


if __name__ == "__main__":
    main()
