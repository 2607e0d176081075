"""Several instances of the service on one port.

Enters: settings with `instances`. Leaves: whole services, each a process with a share of the CPUs.
Runs in: the parent of the instances, which imports neither FastAPI nor NumPy nor an engine; `instance_main` and
`instance_member` in each instance; `count_measurement` and `rate_probe` in processes of their own before that.
"""
