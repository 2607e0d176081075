"""These networks on a GPU: PyTorch beside this project's engines; see docs/gpu.md."""
