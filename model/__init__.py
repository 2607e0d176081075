"""The CrossViT network: `spec` is plain data without torch, the rest is PyTorch."""
