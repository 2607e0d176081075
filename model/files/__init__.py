"""Image files: which files of a folder are images, and what of a file's bytes makes its pixels; imports no torch.

Bytes of a file enter, an upright Pillow image of 8 bits leaves. Serving, evaluation, training and calibration all read
images by this package, in whichever process they decode.
"""
