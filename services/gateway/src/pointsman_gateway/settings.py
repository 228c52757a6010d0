"""The gateway's settings, read once from the environment (`POINTSMAN_GATEWAY_*`)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_GATEWAY_", extra="ignore")

    http_listen: str = "127.0.0.1:8080"
    grpc_listen: str = "127.0.0.1:8081"
    config: Path = Path("config")
    retriever: str = "127.0.0.1:8082"
    embedding_model: Path = Path(".pointsman/models/minilm")
    classifier: Path | None = Field(
        default=None,
        description="the artefact of `pointsman classifier fit`; not set: the classifier is fitted at start",
    )
    redis_url: str = Field(default="", description="for the journal, feedback and evidence; empty: none is kept")
    spool: Path = Field(default=Path(".pointsman/spool"), description="where feedback waits while Redis is away")
    reload_seconds: float = Field(default=1.0, gt=0, description="between two looks at the configuration folder")
    max_in_flight: int = Field(default=256, ge=1, description="requests at once; more are told to come again")
    request_timeout: float = Field(default=120.0, gt=0, description="seconds for a whole request, fallbacks included")
    log_level: str = "INFO"
