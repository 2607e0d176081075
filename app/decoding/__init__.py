"""Untrusted bytes to arrays: images and the tensors of the Open Inference Protocol.

Enters: bytes from a request. Leaves: pixels, uint8 RGB (side, side, 3).
Runs in: sealed decoder processes; `pool` alone runs in the HTTP process and calls them.
"""
