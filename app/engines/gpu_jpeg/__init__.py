"""JPEG decoding on the GPU, in front of an engine; off by default.

Enters: JPEG bytes. Leaves: pixels, uint8 RGB (batch, side, side, 3), in the GPU's memory.
Runs in: an engine process.
"""
