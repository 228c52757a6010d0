# The retriever with the embedding model and the clients of all external stores. From the repository's root:
#   docker build -f deploy/docker/retriever.Dockerfile -t pointsman-retriever:0.1.0 .
# With FAISS for NVIDIA GPUs (x86-64), which needs NVIDIA's container runtime:
#   docker build -f deploy/docker/retriever.Dockerfile -t pointsman-retriever-gpu:0.1.0 --build-arg LOCK=retriever-gpu .
ARG BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG LOCK=retriever
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY deploy/docker/locks/build.txt deploy/docker/locks/retriever.txt deploy/docker/locks/retriever-gpu.txt locks/
# pip's own configuration (an index, a certificate) comes as a secret and stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/build \
    && python3 -m venv /opt/pointsman/venv \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/pointsman/venv/bin/pip install --require-hashes --only-binary :all: -r "locks/${LOCK}.txt"
COPY proto proto
COPY libs libs
COPY services/retriever services/retriever
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels \
        ./proto ./libs/servicekit ./libs/embedding ./services/retriever \
    && /opt/pointsman/venv/bin/pip install --no-index --no-deps wheels/*.whl
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pointsman/venv/bin/python -m pointsman_embedding.prepare /opt/pointsman/models/minilm \
    && /opt/pointsman/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/pointsman/venv/lib \
    && chmod -R a+rX /opt/pointsman

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
# Where the source is, and its commit: a release gives both.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="pointsman-retriever" \
      org.opencontainers.image.description="Collections of documents, found by meaning and by word." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/pointsman /opt/pointsman
ENV PATH=/opt/pointsman/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    POINTSMAN_RETRIEVER_EMBEDDING_MODEL=/opt/pointsman/models/minilm \
    POINTSMAN_RETRIEVER_DATA=/var/lib/pointsman/retriever \
    POINTSMAN_RETRIEVER_LISTEN=0.0.0.0:8082 \
    POINTSMAN_RETRIEVER_METRICS_LISTEN=0.0.0.0:9082
USER 10001:10001
EXPOSE 8082 9082
# Kubernetes asks by its own probes; this is for those who run the image otherwise.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9082/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "pointsman_retriever"]
