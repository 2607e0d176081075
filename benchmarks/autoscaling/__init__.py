"""Whether the chart's ScaledObject scales as it should: the autoscaler's rules, a service to apply them to, recordings.

Enters: the rendered ScaledObject, a load. Leaves: the replicas over time.
Runs in: a developer's shell and tests; a cluster is not needed.
"""
