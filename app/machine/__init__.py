"""The machine's limits: CPUs, memory, control groups; and signals.

Enters: /proc, cgroup files and signals. Leaves: counts of CPUs and bytes.
Runs in: every process.
"""
