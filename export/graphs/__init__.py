"""ONNX graphs. Enters: the network. Leaves: the served graph, at any side or a fixed one, in 32, 16 or 8 bits."""
