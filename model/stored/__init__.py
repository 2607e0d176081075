"""Files of weights: their bytes enter; nested mappings of described tensors, and the network's among them, leave.

Nothing of a file is imported or called, and a tensor's values are read when they are asked for.
"""
