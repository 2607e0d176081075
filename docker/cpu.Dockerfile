# CrossViT on a CPU. `docker build -f docker/cpu.Dockerfile .` makes the last of these targets:
#   serve           fetches weights, makes bundles of them, and serves those in /bundles; PyTorch is in no stage
#   serve-quantize  the same with NNCF, which makes graphs in 8 bits
#   bundled         serve, with a bundle inside: --build-arg VARIANT=crossvit_9_dagger --build-arg QUANTIZE=int8
# Any Debian with Python 3.11, venv and pip can replace the base.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm
ARG QUANTIZE=

FROM ${PYTHON} AS python
ENV PATH=/opt/crossvit/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/cache
RUN install -d -o 10001 -g 10001 /bundles /cache

FROM python AS pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /tmp/build
COPY docker/locks/build.txt .
RUN python3 -m venv /opt/crossvit && pip install --require-hashes -r build.txt

FROM pip AS project
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY model model
COPY bundle bundle
COPY export export
COPY app app
RUN pip install --no-build-isolation --no-deps --no-index --prefix /project .

FROM pip AS packages
COPY docker/locks/cpu.txt .
RUN pip install --no-deps --require-hashes -r cpu.txt

# A folder of what is not among the packages yet.
FROM packages AS quantization
COPY docker/locks/cpu-quantize.txt .
RUN pip install --prefix /quantization --no-deps --require-hashes -r cpu-quantize.txt

FROM packages AS served
RUN pip uninstall --yes wheel-stub setuptools pip

FROM python AS serve
ARG REVISION=unknown
COPY --from=served /opt/crossvit /opt/crossvit
COPY --from=project /project /opt/crossvit
COPY --chmod=0644 docker/health.py /opt/crossvit/
LABEL org.opencontainers.image.title="CrossViT" \
      org.opencontainers.image.description="CrossViT image classification over HTTP, on a CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV CROSSVIT_HOST=0.0.0.0 CROSSVIT_BUNDLE=/bundles HF_HOME=/cache/huggingface
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-I", "/opt/crossvit/health.py"]
ENTRYPOINT ["crossvit"]
CMD ["serve"]

FROM serve AS serve-quantize
COPY --from=quantization /quantization /opt/crossvit

# hadolint ignore=DL3006
FROM serve${QUANTIZE:+-quantize} AS pulled
ARG VARIANT=crossvit_9_dagger
ARG SOURCE=${VARIANT}
ARG QUANTIZE
RUN crossvit pull "${SOURCE}" --quantize "${QUANTIZE}" --out "/bundles/${VARIANT}"

FROM serve AS bundled
COPY --from=pulled /bundles /bundles
