"""The retriever's settings, read once from the environment (`POINTSMAN_RETRIEVER_*`)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_RETRIEVER_", extra="ignore")

    listen: str = "127.0.0.1:8082"
    metrics_listen: str = "127.0.0.1:9082"
    data: Path = Field(default=Path(".pointsman/retriever"), description="the folder that holds the collections")
    embedding_model: Path = Path(".pointsman/models/minilm")
    search_threads: int = Field(default=4, ge=1, description="searches worked on at once")
    ingest_threads: int = Field(default=1, ge=1, description="documents chunked and embedded at once")
    log_level: str = "INFO"
