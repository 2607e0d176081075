"""Metrics, traces and logs.

Enters: events and durations. Leaves: Prometheus text, OpenTelemetry spans, log lines.
Runs in: the HTTP process.
"""
