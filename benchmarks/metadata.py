"""The effect of metadata on accuracy: `python -m benchmarks.metadata DATA --bundle BUNDLE [--profile FILE.icc ...]`.

Images of DATA, labelled as for `crossvit evaluate`, are taken as sRGB and converted to other colour spaces: Display P3,
Adobe RGB, ProPhoto RGB, and those of the `--profile` files, such as one for CMYK. Each is then classified twice: with
its profile ignored, as in this service and in timm's and torchvision's loaders, and converted back to sRGB, as in
browsers. The images are also turned and mirrored, as a loader sees files whose Exif orientation it ignores. Prints
Markdown, and reports only.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from operator import methodcaller
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.commands.evaluate.evaluation import sample
from app.decoding.image_decoding import decode
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from benchmarks.photographs import matched_classes
from bundle.reader import open_bundle
from model.dataset import Dataset
from model.files.pixels import TRUSTED_MAX_PIXELS
from model.preprocess import rgb_image

See = Callable[[Image.Image], Image.Image]

# Columns: red, green and blue in CIE XYZ, adapted to D50.
SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
# The same of other spaces, and the exponent of their tone curve; None for sRGB's curve.
SPACES: dict[str, tuple[list[list[float]], float | None]] = {
    "Display P3": ([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]], None),
    "Adobe RGB": ([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]], 2.19921875),
    "ProPhoto RGB": ([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]], 1.8),
}
TURNS = {
    "turned by 90 degrees": Image.Transpose.ROTATE_90,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
}
TIMED_IMAGES = 50


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

    exact = answers(lambda image: image)
    spread = np.linalg.norm(exact - exact.mean(1, keepdims=True), axis=1)
    rows = []
    for name, see in {"as they are": lambda image: image, **views(options.profile)}.items():
        given = answers(see)
        rows.append({
            "images": name,
            "top-1": f"{(given.argmax(1) == expected).mean():.1%}",
            "same best class": f"{(given.argmax(1) == exact.argmax(1)).mean():.1%}",
            "logits' distance by their spread, median": f"{np.median(np.linalg.norm(given - exact, axis=1) / spread):.1%}",
        })  # fmt: skip
    print(f"{len(images)} images; {machine()}\n")
    print_table(pd.DataFrame(rows))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    profiles = {"sRGB": srgb.tobytes(), **{path.stem: path.read_bytes() for path in options.profile}}
    costs = [[name, f"{cost(images[:TIMED_IMAGES], profile):.2f}"] for name, profile in profiles.items()]
    print_table(pd.DataFrame(costs, columns=["converting a profile to sRGB", "ms an image"]))


def views(profiles: Sequence[Path]) -> dict[str, See]:
    """Each way of seeing the images, by its name."""
    spaces = {name: (partial(to_space, space), partial(from_space, space)) for name, space in SPACES.items()}
    for path in profiles:
        spaces[path.stem] = tuple(partial(applied, transform) for transform in transforms(path.read_bytes()))
    found: dict[str, See] = {}
    for name, (there, back) in spaces.items():
        found[f"{name}, profile ignored"] = there
        found[f"{name}, converted back"] = lambda image, there=there, back=back: back(there(image))
    return found | {name: methodcaller("transpose", turn) for name, turn in TURNS.items()}


def to_space(space: tuple[list[list[float]], float | None], image: Image.Image) -> Image.Image:
    """An image in sRGB as a loader sees it in another colour space, whose profile it ignores."""
    matrix, gamma = space
    return converted(image, np.linalg.inv(matrix) @ SRGB, None, gamma)


def from_space(space: tuple[list[list[float]], float | None], image: Image.Image) -> Image.Image:
    matrix, gamma = space
    return converted(image, np.linalg.inv(SRGB) @ matrix, gamma, None)


def converted(image: Image.Image, matrix: NDArray[np.float64], gamma: float | None, to: float | None) -> Image.Image:
    """The image through a tone curve, a matrix and another curve; None is sRGB's curve (IEC 61966-2-1)."""
    x = np.asarray(image) / 255
    linear = x**gamma if gamma else np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    y = np.clip(linear @ matrix.T, 0, 1)
    curved = y ** (1 / to) if to else np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.round(255 * curved).astype(np.uint8))


def applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    found = ImageCms.applyTransform(image, transform)
    assert found is not None  # it is no conversion in place
    return found


def transforms(profile: bytes) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform]:
    """From sRGB to the space of `profile`, and back."""
    space = ImageCms.getOpenProfile(BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    mode = {"RGB ": "RGB", "CMYK": "CMYK"}[space.profile.xcolor_space]
    return ImageCms.buildTransform(srgb, space, "RGB", mode), ImageCms.buildTransform(space, srgb, mode, "RGB")


def as_png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def cost(images: Sequence[Image.Image], profile: bytes) -> float:
    """Milliseconds for an image, the profile's tables included, as each request would need them."""
    seconds = []
    for image in [applied(transforms(profile)[0], image) for image in images]:
        started = time.perf_counter()
        applied(transforms(profile)[1], image)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


if __name__ == "__main__":
    main()
