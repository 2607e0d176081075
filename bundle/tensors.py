"""Tensors of the served graph: their names, types and axes. Every engine, exporter and test uses these."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

InputName = Literal["image"]
OutputNames = tuple[Literal["logits"], Literal["logits_small"], Literal["logits_large"]]

INPUT: Final = "image"  # uint8 RGB (batch, side, side, 3)
# float32 (batch, classes) each: the mean of the branches, branch S, branch L
OUTPUTS: Final = ("logits", "logits_small", "logits_large")

Images = NDArray[np.uint8]  # RGB (batch, side, side, 3)
ImageRows = Images | Sequence[NDArray[np.uint8]]  # the same, or images (side, side, 3) that lie apart
Outputs = NDArray[np.float32]  # (outputs, batch, classes), in the order of OUTPUTS
