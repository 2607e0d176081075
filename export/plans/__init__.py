"""TensorRT plans. Enters: a bundle. Leaves: plans for the GPU of this machine, each in a folder of the bundle."""
