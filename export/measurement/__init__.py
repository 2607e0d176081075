"""Measurements against float32. Enters: graphs and photographs. Leaves: differences of logits and top-1 agreement."""
