# CrossViT on a CPU. `docker build -f docker/cpu.Dockerfile .` makes the last of these targets:
#   export   writes bundles, with PyTorch
#   serve    the service, without PyTorch; bundles are mounted at /bundles
#   bundled  the service with a bundle inside: --build-arg VARIANT=crossvit_9_dagger
# Any Debian with Python 3.11, venv and pip can replace the base.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

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

FROM project AS service
RUN rm -rf /project/lib/python3.*/site-packages/model/shipped

FROM pip AS serving
COPY docker/locks/cpu.txt .
RUN pip install --no-deps --require-hashes -r cpu.txt

FROM serving AS exporting
COPY docker/locks/cpu-export.txt constraints.txt ./
RUN pip install --no-deps --require-hashes -r cpu-export.txt
# PyTorch has no hashes here: its builds for CPUs come from a separate index.
ARG TORCH_INDEX=
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" pip install -c constraints.txt torch

FROM exporting AS export
COPY --from=project /project /opt/crossvit
ENV HF_HOME=/cache/huggingface
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["crossvit", "export"]

FROM export AS bundle
ARG VARIANT=crossvit_9_dagger
ARG WEIGHTS=auto
ARG QUANTIZE=int8
RUN crossvit export --variant "${VARIANT}" --weights "${WEIGHTS}" --quantize "${QUANTIZE}" --out "/bundles/${VARIANT}"

FROM serving AS served
RUN pip uninstall --yes wheel-stub setuptools pip

FROM python AS serve
ARG REVISION=unknown
COPY --from=served /opt/crossvit /opt/crossvit
COPY --from=service /project /opt/crossvit
COPY --chmod=0644 docker/health.py /opt/crossvit/
LABEL org.opencontainers.image.title="CrossViT" \
      org.opencontainers.image.description="CrossViT image classification over HTTP, on a CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV CROSSVIT_HOST=0.0.0.0 CROSSVIT_BUNDLE=/bundles
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-I", "/opt/crossvit/health.py"]
ENTRYPOINT ["crossvit"]
CMD ["serve"]

FROM serve AS bundled
COPY --from=bundle /bundles /bundles
