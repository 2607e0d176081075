"""scikit-learn's digits (1,797 of 8 x 8 pixels) as folders of PNG files: `python docs/examples/digits.py FOLDER`.

Every fifth is for validation. `--only 0 1 7 --each 30` takes fewer classes, and fewer images of each.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--only", type=int, nargs="+", default=range(10))
parser.add_argument("--each", type=int, default=1000)
args = parser.parse_args()

digits, written = load_digits(), Counter[str]()
for image, digit in zip(digits.images, digits.target, strict=True):
    if digit in args.only and written[f"{digit}"] < args.each:
        folder = args.folder / ("validation" if written[f"{digit}"] % 5 == 0 else "train") / f"digit {digit}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 - 15 * image).astype(np.uint8)).save(folder / f"{written[f'{digit}']}.png")
        written[f"{digit}"] += 1
print(f"{written.total()} images in {args.folder}")
