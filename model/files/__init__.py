"""Image files: which files of a folder are images, and which of a file's bytes make its pixels; imports no torch.

Enters: the bytes of a file. Leaves: a Pillow image without metadata and its orientation, or a `BadFile`.
Runs in: the process that decodes, in serving, evaluation, training and calibration.
"""
