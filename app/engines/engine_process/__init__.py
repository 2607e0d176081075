"""The process that holds an engine.

Enters: a bundle, a resolution and pixels. Leaves: logits, and restarts when the engine fails.
Runs in: `engine_host` in the engine process; `launch` and `supervisor` in the HTTP process.
"""
