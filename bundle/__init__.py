"""The bundle: the one contract between `export`, which writes it, and `app`, which serves it. Imports no PyTorch.

Enters: a folder with a graph, labels, golden images, a manifest and TensorRT plans. Leaves: a checked `Bundle`.
Runs in: every process.
"""
