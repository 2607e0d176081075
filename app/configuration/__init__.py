"""Settings of `crossvit serve`.

Enters: the command line and the environment. Leaves: a checked `Settings`.
Runs in: the HTTP process and the commands.
"""
