"""The retriever's settings, read once from the environment (`POINTSMAN_RETRIEVER_*`)."""

import os
from pathlib import Path

from pointsman_servicekit.logs import LogFormat, LogLevel
from pointsman_servicekit.setting_names import require_known_settings
from pointsman_servicekit.setting_values import WrongSetting, require_address, require_grpc_address
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "POINTSMAN_RETRIEVER_"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    listen: str = "127.0.0.1:8082"
    metrics_listen: str = "127.0.0.1:9082"
    tokens: Path | None = Field(
        default=None, description="a file with one NAME ROLE TOKEN a line; if set, every gRPC call needs a token"
    )
    data: Path = Field(default=Path(".pointsman/retriever"), description="the folder that holds the collections")
    collections: Path | None = Field(
        default=None,
        description="a YAML file whose `collections` are read from stores of yours; pointsman.yaml will do",
    )
    embedding_model: Path = Field(default=Path(".pointsman/models/minilm"), description="MiniLM's folder")
    embedding_config: Path | None = Field(
        default=None,
        description="a YAML file whose `embedding` names another model, the same as the gateway's; models.yaml or "
        "pointsman.yaml will do",
    )
    search_threads: int = Field(default=4, ge=1, description="searches that run at once")
    ingest_threads: int = Field(
        default_factory=lambda: max(1, min(4, cores())), ge=1, description="batches of chunks that are embedded at once"
    )
    max_bad_lines: int = Field(
        default=1_000, ge=0, description="unreadable lines of a JSON lines file after which the rest is not read"
    )
    tenant_collections: int = Field(default=0, ge=0, description="maximum collections per tenant; 0 is unlimited")
    quota_documents: int = Field(default=0, ge=0, description="default quota of a new collection; 0 is unlimited")
    quota_chunks: int = Field(default=0, ge=0, description="default quota of a new collection; 0 is unlimited")
    quota_bytes: int = Field(default=0, ge=0, description="default quota of a new collection; 0 is unlimited")
    vector_store: str = Field(
        default="faiss",
        description="a name of index/vector_stores.py, such as milvus, or of an entry point, or module:attribute",
    )
    vector_store_url: str = Field(
        default="", repr=False, description="address of the vector store; for Milvus also a file of Milvus Lite"
    )
    vector_store_token: str = Field(default="", repr=False)
    vector_store_prefix: str = Field(
        default="pointsman",
        pattern="^[A-Za-z][A-Za-z0-9_]*$",
        max_length=80,
        description="starts the names of this retriever's collections in the vector store",
    )
    shared_store: str = Field(
        default="",
        description="a store whose collections several retrievers share: a name of shared/stores.py, such as pgvector, "
        "or of an entry point, or module:attribute; empty: none",
    )
    shared_store_url: str = Field(
        default="", repr=False, description="for pgvector postgresql://USER@HOST:PORT/DATABASE"
    )
    shared_store_token: str = Field(default="", repr=False)
    shared_store_prefix: str = Field(
        default="pointsman",
        pattern="^[A-Za-z][A-Za-z0-9_]*$",
        max_length=63,
        description="starts the names in the shared store; for pgvector the schema",
    )
    shared_store_owner: str = Field(
        default="default", description="retrievers with the same owner share collections; others are refused"
    )
    shared_store_timeout: float = Field(default=30.0, gt=0.0, description="seconds, for one call of the shared store")
    reranker_url: str = Field(
        default="", repr=False, description="the complete address of a reranker; empty: no reranker"
    )
    reranker_api: str = Field(
        default="",
        description="a name of rerank/rerankers.py, such as tei (the default with a URL), or of an entry point, or "
        "module:attribute",
    )
    reranker_model: str = ""
    reranker_key: str = Field(default="", repr=False)
    reranker_timeout: float = Field(default=5.0, gt=0.0, description="seconds, for one answer of the reranker")
    shutdown_delay: float = Field(
        default=3.0, ge=0, description="seconds after SIGTERM in which calls are served while health says NOT_SERVING"
    )
    shutdown_timeout: float = Field(default=20.0, ge=0, description="seconds that calls in flight then get to finish")
    tls_certificate: Path | None = Field(
        default=None, description="PEM, of the gRPC server; set together with tls_key, it enables TLS"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; if set, clients without a certificate of this CA are refused"
    )
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"

    @field_validator("listen")
    @classmethod
    def _is_grpc_address(cls, value: str) -> str:
        return require_grpc_address(value)

    @field_validator("metrics_listen")
    @classmethod
    def _is_http_address(cls, value: str) -> str:
        return require_address(value)

    @field_validator("tokens", "collections", "embedding_config", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None


def read_settings() -> Settings:
    """Reads the settings from the environment.

    Raises UnknownSetting if a variable that begins with POINTSMAN_RETRIEVER_ is not a setting, WrongSetting if a value
    cannot be used.
    """
    require_known_settings(PREFIX, Settings.model_fields, os.environ)
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(PREFIX, error.errors()) from error


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
