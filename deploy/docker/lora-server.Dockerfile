# The lora-server on top of an engine, which it starts as its child, so that neither outlives the other. A restart of the
# container restarts the engine, which may take minutes; so the liveness probe checks the lora-server alone, which restarts
# its engine itself. From the repository's root:
#   docker build -f deploy/docker/lora-server.Dockerfile --build-arg ENGINE_IMAGE=pointsman-engine-cuda:0.1.0 \
#     -t pointsman-lora-server-cuda:0.1.0 .
ARG ENGINE_IMAGE=pointsman-engine-cpu:0.1.0

# hadolint ignore=DL3006  # its version is in the argument
FROM ${ENGINE_IMAGE} AS build
# hadolint ignore=DL3002  # of this stage alone, which is thrown away
USER 0
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY deploy/docker/locks/build.txt deploy/docker/locks/lora-server.txt locks/
# pip's own configuration (an index, a certificate) comes as a secret and stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/build \
    && python3 -m venv /opt/pointsman/venv \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/pointsman/venv/bin/pip install --require-hashes --only-binary :all: -r locks/lora-server.txt
COPY proto proto
COPY libs/servicekit libs/servicekit
COPY services/lora-server services/lora-server
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels \
        ./proto ./libs/servicekit ./services/lora-server \
    && /opt/pointsman/venv/bin/pip install --no-index --no-deps wheels/*.whl \
    && /opt/pointsman/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/pointsman/venv/lib \
    && cp -r services/lora-server/src /opt/pointsman/src \
    && chmod -R a+rX /opt/pointsman

# hadolint ignore=DL3006  # its version is in the argument
FROM ${ENGINE_IMAGE}
ARG VERSION=0.1.0
# Where the source is, and its commit: a release gives both.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman-lora-server" \
      org.opencontainers.image.description="One vLLM engine, and what starts it, feeds it adapters and trains them." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/pointsman /opt/pointsman
ENV PATH=/opt/pointsman/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    POINTSMAN_LORA_ENGINE_PYTHON=/opt/engine/bin/python \
    POINTSMAN_LORA_LISTEN=0.0.0.0:8083 \
    POINTSMAN_LORA_METRICS_LISTEN=0.0.0.0:9083
USER 10001:10001
EXPOSE 8083 8101 9083
# Kubernetes asks by its own probes; this is for those who run the image otherwise. A large model takes minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9083/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "pointsman_lora_server"]
