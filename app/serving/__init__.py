"""Served models: each answers for one bundle, with a queue, batches and deadlines.

Enters: image bytes or pixels with a deadline. Leaves: logits (outputs, classes) of each image.
Runs in: the HTTP process; decoding and inference run in processes of their own.
"""
