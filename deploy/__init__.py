"""Manifests for Kubernetes, and the programs that make some of them from others; no part of the service.

Enters: the chart's values, the service's settings. Leaves: manifests.
Runs in: a developer's shell and tests.
"""
