"""What a GPU makes of these networks, PyTorch beside this project's engines; see docs/gpu.md."""
