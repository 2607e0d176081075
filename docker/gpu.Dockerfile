# CrossViT on an NVIDIA GPU: fetches weights, makes bundles of them, builds TensorRT engines, and serves from them or from
# ONNX Runtime's CUDA provider. CUDA, cuDNN and TensorRT are Python packages here; the machine must have the driver and the
# NVIDIA Container Toolkit.
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

FROM pip AS common
COPY docker/locks/gpu-common.txt .
RUN pip install --no-deps --require-hashes -r gpu-common.txt

# Without build isolation: TensorRT's packages fetch NVIDIA's files with the wheel-stub that is pinned in build.txt.
FROM common AS gpu
COPY docker/locks/gpu.txt .
RUN pip install --no-build-isolation --no-deps --require-hashes -r gpu.txt \
    && pip uninstall --yes wheel-stub setuptools pip

FROM python AS serve
ARG REVISION=unknown
COPY --from=gpu /opt/crossvit /opt/crossvit
COPY --from=project /project /opt/crossvit
COPY --chmod=0644 docker/health.py /opt/crossvit/
LABEL org.opencontainers.image.title="CrossViT" \
      org.opencontainers.image.description="CrossViT image classification over HTTP, on an NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV CROSSVIT_HOST=0.0.0.0 CROSSVIT_BUNDLE=/bundles HF_HOME=/cache/huggingface
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
# The toolkit refuses an older driver with a sentence. The driver keeps kernels that it compiles in the cache's volume.
ENV NVIDIA_REQUIRE_CUDA="cuda>=13.0" CUDA_CACHE_PATH=/cache/nv
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-I", "/opt/crossvit/health.py"]
ENTRYPOINT ["crossvit"]
CMD ["serve"]
