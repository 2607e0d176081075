"""Ways to see the same image: in other colour spaces, or turned. `benchmarks.accuracy --views`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from operator import methodcaller
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from app.decoding.image_decoding import decode
from model.files.pixels import TRUSTED_MAX_PIXELS
from model.preprocess import Pixels, rgb_image
from model.spec import Preprocessing

Space = tuple[list[list[float]], float | None]
See = Callable[[Image.Image], Image.Image]
Decode = Callable[[bytes, Preprocessing], Pixels]

# Columns: red, green and blue in CIE XYZ, adapted to D50; and the exponent of the tone curve, None for sRGB's.
SRGB: Space = ([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]], None)
SPACES: dict[str, Space] = {
    "Display P3": ([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]], None),
    "Adobe RGB": ([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]], 2.19921875),
    "ProPhoto RGB": ([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]], 1.8),
}
TURNS = {
    "turned by 90 degrees": Image.Transpose.ROTATE_90,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
}


def plain(body: bytes, steps: Preprocessing) -> Pixels:
    """As the service sees an image."""
    return decode(body, steps, TRUSTED_MAX_PIXELS)


def views(profiles: Sequence[Path]) -> Iterator[tuple[str, Decode]]:
    """Each image taken as sRGB and converted: with its profile ignored, and converted back. Then turned."""
    spaces: dict[str, tuple[See, See]] = {
        name: (partial(converted, SRGB, space), partial(converted, space, SRGB)) for name, space in SPACES.items()
    }
    for path in profiles:
        spaces[path.stem] = transforms(path)
    for name, (there, back) in spaces.items():
        yield f"{name}, profile ignored", partial(seen, [there])
        yield f"{name}, converted back", partial(seen, [there, back])
    for name, turn in TURNS.items():
        yield name, partial(seen, [methodcaller("transpose", turn)])


def seen(ways: Sequence[See], body: bytes, steps: Preprocessing) -> Pixels:
    """The pixels after all `ways` of changing the image, one after the other."""
    image = rgb_image(body)
    for way in ways:
        image = way(image)
    file = BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return plain(file.getvalue(), steps)


def converted(of: Space, to: Space, image: Image.Image) -> Image.Image:
    """The values of an image in one colour space in another one (IEC 61966-2-1 for sRGB's curve)."""
    (here, gamma), (there, other_gamma) = of, to
    x = np.asarray(image) / 255
    linear = x**gamma if gamma else np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    y = np.clip(linear @ (np.linalg.inv(there) @ here).T, 0, 1)
    curve = (
        y ** (1 / other_gamma) if other_gamma else np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
    )
    return Image.fromarray(np.round(255 * curve).astype(np.uint8))


def transforms(profile: Path) -> tuple[See, See]:
    """From sRGB to the space of an ICC profile, and back."""
    try:
        space, srgb = ImageCms.getOpenProfile(str(profile)), ImageCms.createProfile("sRGB")
    except ImageCms.PyCMSError as err:
        raise ValueError(f"{profile}: {err}") from err
    mode = {"RGB ": "RGB", "CMYK": "CMYK"}[space.profile.xcolor_space]
    there = ImageCms.buildTransform(srgb, space, "RGB", mode)
    back = ImageCms.buildTransform(space, srgb, mode, "RGB")
    return (lambda image: there.apply(image)), (lambda image: back.apply(image))
