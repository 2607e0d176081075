"""JPEG decoding on the GPU, for all engines; off by default.

Enters: JPEG bytes. Leaves: pixels, uint8 RGB (side, side, 3) each.
Runs in: a process of its own, `jpeg_host`; `jpeg_pool` and `jpeg_header` in the HTTP process.
"""
