"""The service's parts on Ray: replicas of Ray Serve, a function for pipelines of Ray Data, workers of `crossvit bulk`.

Enters: requests of Ray's proxies, batches of Ray Data, units of work. Leaves: responses, rows, parts.
Runs in: actors of Ray; each has decoder and engine processes of its own, within the CPUs that Ray counts for it.
"""
