"""PyTorch, the runtimes and this project's engines and service beside each other: on a CPU (`cpu`), on a GPU (`gpu`).

Photographs and a bundle enter, tables and figures leave. Each contestant runs in a process of its own.
"""
