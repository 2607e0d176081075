"""The CrossViT network: its specification, weights, labels, preprocessing and training. Imports no other package.

Enters: image files, checkpoints, label files. Leaves: pixels, a PyTorch network, labels; from training, weights.
Runs in: every process. `crossvit`, `bicubic`, `loaded_network` and `training` import torch, the others do not.
"""
