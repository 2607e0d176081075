"""Training: images to batches, batches to weights. Nothing here is needed to export or to serve."""
