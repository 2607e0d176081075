"""Making bundles that are not there yet, by `python -m export.pull`, which is no part of the service.

Enters: what the command line names. Leaves: paths of bundles.
Runs in: the process of `crossvit serve`, before it serves; and beside it, for graphs in 8 bits.
"""
