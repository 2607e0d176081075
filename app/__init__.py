"""The service: image bytes to class scores over HTTP.

Enters: a request with an image. Leaves: a response with the most likely classes.
Runs in: the HTTP process, which starts decoder processes and engine processes.
"""
