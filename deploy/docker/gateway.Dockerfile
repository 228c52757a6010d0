# The gateway with the embedding model, and the command `pointsman`. From the repository's root:
#   docker build -f deploy/docker/gateway.Dockerfile -t pointsman-gateway:0.1.0 .
# With LiteLLM's SDK, for `provider: litellm/NAME`:
#   docker build -f deploy/docker/gateway.Dockerfile -t pointsman-gateway-litellm:0.1.0 --build-arg LOCK=gateway-litellm .
ARG BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG LOCK=gateway
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY deploy/docker/locks/build.txt deploy/docker/locks/gateway.txt deploy/docker/locks/gateway-litellm.txt locks/
# pip's own configuration (an index, a certificate) comes as a secret and stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/build \
    && python3 -m venv /opt/pointsman/venv \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/pointsman/venv/bin/pip install --require-hashes --only-binary :all: -r "locks/${LOCK}.txt"
COPY proto proto
COPY libs libs
COPY services/gateway services/gateway
COPY tools/lab tools/lab
COPY cli cli
COPY examples examples
COPY deploy/prometheus/rules deploy/prometheus/rules
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels \
        ./proto ./libs/servicekit ./libs/embedding ./libs/scoring ./services/gateway ./tools/lab ./cli \
    && /opt/pointsman/venv/bin/pip install --no-index --no-deps wheels/*.whl \
    && ln -s "$(echo /opt/pointsman/venv/lib/python3*/site-packages)/pointsman_cli/files/examples" /opt/pointsman/examples
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pointsman/venv/bin/python -m pointsman_embedding.prepare /opt/pointsman/models/minilm \
    && /opt/pointsman/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/pointsman/venv/lib \
    && chmod -R a+rX /opt/pointsman

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
# Where the source is, and its commit: a release gives both.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman-gateway" \
      org.opencontainers.image.description="Routes each request to a prompted or a fine-tuned model, answers it, and prices the answer." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/pointsman /opt/pointsman
ENV PATH=/opt/pointsman/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    POINTSMAN_GATEWAY_EMBEDDING_MODEL=/opt/pointsman/models/minilm \
    POINTSMAN_GATEWAY_HTTP_LISTEN=0.0.0.0:8080 \
    POINTSMAN_GATEWAY_GRPC_LISTEN=0.0.0.0:8081
USER 10001:10001
EXPOSE 8080 8081 9080
# Kubernetes asks by its own probes; this is for those who run the image otherwise, and without TLS.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "pointsman_gateway"]
