"""The retriever's settings, read once from the environment (`POINTSMAN_RETRIEVER_*`)."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_RETRIEVER_", extra="ignore")

    listen: str = "127.0.0.1:8082"
    metrics_listen: str = "127.0.0.1:9082"
    data: Path = Field(default=Path(".pointsman/retriever"), description="the folder that holds the collections")
    embedding_model: Path = Path(".pointsman/models/minilm")
    search_threads: int = Field(default=4, ge=1, description="searches worked on at once")
    ingest_threads: int = Field(
        default_factory=lambda: max(1, min(4, cores())), ge=1, description="batches of chunks embedded at once"
    )
    tenant_collections: int = Field(default=0, ge=0, description="the most collections of a tenant; 0 is no limit")
    quota_documents: int = Field(default=0, ge=0, description="of a new collection; 0 is no limit")
    quota_chunks: int = Field(default=0, ge=0, description="of a new collection; 0 is no limit")
    quota_bytes: int = Field(default=0, ge=0, description="of a new collection; 0 is no limit")
    milvus: str = Field(
        default="", description="where the vectors are: a Milvus server's address, a file of Milvus Lite's, or here"
    )
    milvus_token: str = ""
    milvus_prefix: str = Field(
        default="pointsman", pattern="[A-Za-z][A-Za-z0-9]*", description="of this retriever's own collections in Milvus"
    )
    reranker: str = Field(default="", description="the whole address of a reranker; empty: there is none")
    reranker_shape: Literal["tei", "cohere"] = "tei"
    reranker_model: str = ""
    reranker_key: str = ""
    reranker_seconds: float = Field(default=5.0, gt=0.0, description="for one answer of the reranker")
    drain_notice: float = Field(
        default=3.0, ge=0, description="seconds on SIGTERM in which all is served though gRPC health says no"
    )
    drain_grace: float = Field(default=20.0, ge=0, description="seconds that calls in flight then get to finish")
    tls_certificate: Path | None = Field(
        default=None, description="PEM, of the gRPC door; set with tls_key: it speaks TLS only"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; set: a client without a certificate of it is refused"
    )
    log_level: str = "INFO"
    log_form: Literal["text", "json"] = "text"


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))
