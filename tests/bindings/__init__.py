"""The real Python bindings of TensorRT and CUDA, loaded where there is neither, and type stubs made from them."""
