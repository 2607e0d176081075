"""Untrusted bytes to arrays: images and the tensors of the Open Inference Protocol.

Enters: bytes from a request. Leaves: pixels, uint8 RGB (side, side, 3), or the arrays of a request of that protocol.
Runs in: sealed decoder processes; `pool` and `fair_queue` run in the HTTP process, which calls them.
"""
