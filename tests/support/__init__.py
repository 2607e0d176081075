"""What tests and benchmarks share: servers, processes, waiting, pictures, reference weights. It imports neither."""
