# Debian's Prometheus, to stand in for the official image where no registry is in reach.
FROM docker.io/library/python:3.11-slim-bookworm AS prometheus
WORKDIR /opt
RUN apt-get update && apt-get download prometheus && dpkg --extract prometheus*.deb /opt && install -d -o nobody /prometheus
ENV PATH=/opt/usr/bin:$PATH
USER nobody
ENTRYPOINT ["prometheus"]
