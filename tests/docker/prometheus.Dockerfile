# Debian's Prometheus, to stand in for the official image where no registry is in reach.
FROM docker.io/library/python:3.11-slim-bookworm AS prometheus
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
