"""Files of weights. Nothing in a file is imported or called; a tensor's values are read when they are needed.

Enters: the bytes of a file. Leaves: nested mappings of described tensors, and which of them are the network's.
Runs in: the processes of `crossvit pull`, `crossvit export` and `crossvit train`; needs no torch.
"""
