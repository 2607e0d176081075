"""The CrossViT network: its specification, weights, labels, preprocessing and training. Imports no other package.

Enters: image files, checkpoints, label files. Leaves: pixels, a PyTorch network, labels; from training, weights.
Runs in: every process; serving imports only the modules without torch, such as `spec`, `preprocess` and `files`.
"""
