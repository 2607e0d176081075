"""What the machine allows: CPUs, memory and signals.

Enters: /proc, cgroup files and signals. Leaves: counts of CPUs and bytes.
Runs in: every process.
"""
