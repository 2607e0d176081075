"""Triton model repositories. Enters: a bundle. Leaves: model folders with their config.pbtxt."""
