"""PyTorch, the runtimes and this project's engines and service beside each other, on a CPU or a GPU.

`python -m benchmarks.contest engines|services|report`: the first two measure and add to OUT/results.json, the last
makes tables and pictures of it. Each contestant runs in a process of its own.
"""
