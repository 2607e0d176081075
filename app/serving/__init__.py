"""Served models: one decodes, queues, batches and answers for each bundle.

Enters: image bytes or pixels with a deadline. Leaves: logits (outputs, classes) of each image.
Runs in: the HTTP process; `decoding` and `engines` decode and run in processes of their own.
"""
