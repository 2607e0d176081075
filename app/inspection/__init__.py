"""The inspection graph: embeddings, and what the network looked at, in float32 and in a process of its own.

Enters: locations of pixels, and the classes to explain. Leaves: logits, embeddings and maps over the patches.
Runs in: an inspection process for each model, from the first request that needs it on; `inspector` in HTTP.
"""
