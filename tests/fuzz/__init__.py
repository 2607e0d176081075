"""Thousands of inputs that no client should send: mutated images, forms, queries, tensors, and HTTP itself."""
