"""What the HTTP process and the decoders agree on for overlays; the HTTP process imports no code that opens images."""

from collections.abc import Sequence

LONGEST_SIDE = 1024  # of an overlay, in pixels
MAX_OVERLAY_BYTES = 4 << 20  # of its PNG: more than the pixels take without compression

Grid = Sequence[Sequence[float]]  # square, one number for each patch, the first row at the top
