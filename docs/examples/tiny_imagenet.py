"""Tiny ImageNet as its authors pack it to zip files of <wnid>/<image>: `python docs/examples/tiny_imagenet.py ARCHIVE`.

ARCHIVE is tiny-imagenet-200.zip, of Stanford's course CS231n. Here come train.zip, 100,000 images as WebP of quality 75
(which is what the shipped weights were trained on), and val.zip, the 10,000 validation images as they are.
"""

import sys
import zipfile
from io import BytesIO
from pathlib import PurePosixPath

from PIL import Image

with (
    zipfile.ZipFile(sys.argv[1]) as archive,
    zipfile.ZipFile("train.zip", "w") as train,
    zipfile.ZipFile("val.zip", "w") as val,
):
    names = archive.namelist()
    (annotations,) = (name for name in names if name.endswith("val_annotations.txt"))
    wnids = dict(line.split("\t")[:2] for line in archive.read(annotations).decode().splitlines())
    for path in map(PurePosixPath, names):
        if path.suffix == ".JPEG" and "train" in path.parts:  # .../train/<wnid>/images/<wnid>_<number>.JPEG
            buffer = BytesIO()
            with Image.open(BytesIO(archive.read(f"{path}"))) as image:
                image.convert("RGB").save(buffer, "WEBP", quality=75)
            train.writestr(f"{path.parts[-3]}/{path.stem.rpartition('_')[2]}.webp", buffer.getvalue())
        elif path.name in wnids:  # .../val/images/val_<number>.JPEG
            val.writestr(f"{wnids[path.name]}/{path.name}", archive.read(f"{path}"))
