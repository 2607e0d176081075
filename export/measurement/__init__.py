"""Measurements against float32. Enters: graphs and photographs. Leaves: differences of logits and shares of agreement."""
