# vLLM on CPUs, with the example's base model. The lora-server's image begins with it.
#   docker build -f deploy/docker/engine-cpu.Dockerfile -t pointsman-engine-cpu:0.1.0 .
# torch on PyPI brings CUDA's libraries along, which nothing here uses (the image is 7.8 GB with them): a pip.conf with
# PyTorch's index for CPUs, as the secret `pip`, avoids that.
ARG BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS build
# Apart from the lock, which would hold one build of it: each index has its own.
ARG TORCH=torch==2.13.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY deploy/docker/locks/build.txt deploy/docker/locks/engine-cpu.txt locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/build \
    && python3 -m venv /opt/engine \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/engine/bin/pip install --only-binary :all: "${TORCH}" \
    && /opt/engine/bin/pip install --require-hashes --no-deps --only-binary :all: -r locks/engine-cpu.txt
COPY services/lora-server/vllm_cpu_lora vllm_cpu_lora
# The one module that makes the base model: changes of the rest do not make another engine.
COPY services/lora-server/src/pointsman_lora_server/__init__.py services/lora-server/src/pointsman_lora_server/base_model.py src/pointsman_lora_server/
# vLLM loads the allocator that it finds beside itself; its wheel comes without one.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels ./vllm_cpu_lora \
    && /opt/engine/bin/pip install --no-index --no-deps wheels/*.whl \
    && libs="$(echo /opt/engine/lib/python3*/site-packages/vllm)/libs" \
    && mkdir -p "$libs" \
    && ln -s "/usr/lib/$(uname -m)-linux-gnu/libtcmalloc_minimal.so.4" "$libs/" \
    && PYTHONPATH=src /opt/engine/bin/python -m pointsman_lora_server.base_model /opt/pointsman/models/smollm2-135m \
    && chmod -R a+rX /opt/engine /opt/pointsman

FROM ${BASE_IMAGE}
# vLLM's kernels are linked with libnuma, and it reads the topology by lscpu (util-linux). torch compiles some steps of
# the sampler at the first answers, which takes a compiler and Python's headers, so g++ stays in the image; python:3.12 has
# the headers.
# hadolint ignore=DL3008  # the base image's date is the pin
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 libgomp1 libtcmalloc-minimal4t64 util-linux \
    && if ! test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
        then apt-get install -y --no-install-recommends python3-dev; fi \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/engine /opt/engine
COPY --from=build /opt/pointsman /opt/pointsman
ARG VERSION=0.1.0
# Where the source is, and its commit: a release gives both.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman-engine-cpu" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
USER 10001:10001
# It is never run by itself: the lora-server starts vLLM as its child.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/engine/bin/python"]
