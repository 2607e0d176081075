"""The CrossViT network: its specification, weights, labels, preprocessing and training. Imports no other package.

Enters: image files, checkpoints, label files. Leaves: pixels, a PyTorch network, labels; from training, weights.
Runs in: every process; serving imports only what needs no torch: `spec`, `preprocess`, `files`, `dataset`, `characters`.
"""
