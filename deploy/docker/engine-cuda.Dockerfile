# vLLM on NVIDIA GPUs, with what trials and trainings of adapters need. The lora-server's image begins with it.
#   docker build -f deploy/docker/engine-cuda.Dockerfile -t pointsman-engine-cuda:0.1.0 .
ARG BASE_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${BASE_IMAGE}
USER 0
COPY deploy/docker/locks/engine-training.txt /tmp/engine-training.txt
# An environment that sees vLLM's and adds to it: its python lies in the same place as in the engine for CPUs.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv --system-site-packages /opt/engine \
    && /opt/engine/bin/python -m pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: -r /tmp/engine-training.txt \
    && rm /tmp/engine-training.txt \
    && /opt/engine/bin/python -c "import torch, transformers, accelerate, peft, trl, bitsandbytes" \
    && chmod -R a+rX /opt/engine
ARG VERSION=0.1.0
# Where the source is, and its commit: a release gives both.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman-engine-cuda" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
USER 10001:10001
# It is never run by itself: the lora-server starts vLLM as its child.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/engine/bin/python"]
