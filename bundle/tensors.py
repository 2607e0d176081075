"""Tensors of the served graph: their names, types and axes. Every engine, exporter and test uses these."""

import numpy as np
from numpy.typing import NDArray

INPUT = "image"  # uint8 RGB (batch, side, side, 3)
OUTPUTS = ("logits", "logits_small", "logits_large")  # float32 (batch, classes) each: the mean, the S and the L branch

Images = NDArray[np.uint8]  # RGB (batch, side, side, 3)
Outputs = NDArray[np.float32]  # (outputs, batch, classes), in the order of OUTPUTS
