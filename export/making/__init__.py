"""A request to a bundle. Enters: inputs and a source of the graph, PyTorch or a shipped template. Leaves: a bundle."""
