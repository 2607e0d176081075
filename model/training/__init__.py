"""Training: images to batches, batches to weights. Exporting and serving need nothing of it.

Enters: labelled images, a recipe and perhaps a checkpoint. Leaves: a run's folder with weights, labels, recipe and log.
Runs in: the process of `crossvit train`, or each of torchrun's; worker processes decode and crop.
"""
