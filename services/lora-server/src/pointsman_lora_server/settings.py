"""The lora-server's settings, read once from the environment (`POINTSMAN_LORA_*`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_LORA_", extra="ignore")

    listen: str = "127.0.0.1:8083"
    metrics_listen: str = "127.0.0.1:9083"
    redis_url: str = "redis://127.0.0.1:6379/0"
    store: str = Field(default=".pointsman/adapters", min_length=1, description="a folder, or an fsspec URL: s3://...")
    store_cache: Path = Field(
        default=Path(".pointsman/adapters-fetched"), description="what is fetched from a store behind a URL"
    )
    jobs: Path = Field(default=Path(".pointsman/jobs"), description="training jobs: their data, logs and checkpoints")
    data_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders, by commas, below which training data may be named; empty: everywhere"
    )
    engine_name: str = Field(default="local", min_length=1, description="the engine's name in models.yaml")
    engine_python: Path = Field(default=Path(".venv-engine/bin/python"), description="runs vLLM, trials and training")
    engine_listen: str = "127.0.0.1:8101"
    engine_url: str = Field(default="", description="where gateways reach the engine; empty: http://ENGINE_LISTEN")
    engine_args: str = Field(default="", description="more arguments for vLLM, as in a shell")
    base_model: Path = Path(".pointsman/models/smollm2-135m")
    served_model_name: str = Field(default="smollm2-135m", min_length=1)
    max_loras: int = Field(default=4, ge=1, description="slots of the engine: adapters that it holds at once")
    max_lora_rank: int = Field(default=8, ge=1, le=512)
    max_model_len: int = Field(default=4096, ge=16, description="tokens, prompt and answer together")
    smoke: Literal["process", "off"] = Field(
        default="process", description="whether each version is tried with PEFT, in a process of its own"
    )
    smoke_rows: int = Field(default=4, ge=1, le=64, description="prompts of that trial")
    probe_seconds: float = Field(default=30.0, gt=0, description="between two probes of the base model's answers")
    slot_wait_seconds: float = Field(default=30.0, gt=0, description="that a request waits for a slot, at most")
    drain_notice: float = Field(
        default=3.0,
        ge=0,
        description="seconds on SIGTERM in which all is served, and gateways go elsewhere",
    )
    drain_grace: int = Field(
        default=20, ge=1, description="seconds that the engine's answers then get to finish before vLLM is told to stop"
    )
    guarded_aliases: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset({"prod"}), description='words after the "@", by commas, for what has beaten prompting alone'
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM, of the gRPC door; set with tls_key: it speaks TLS only"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; set: a client without a certificate of it is refused"
    )
    log_level: str = "INFO"
    log_form: Literal["text", "json"] = "text"

    @field_validator("guarded_aliases", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(folder.strip()) for folder in value.split(",") if folder.strip())
        return value

    @model_validator(mode="after")
    def _gateways_find_the_engine(self) -> "Settings":
        host = self.engine_listen.rpartition(":")[0].strip("[]")
        if host in ("", "0.0.0.0", "::") and not self.engine_url:
            raise ValueError(
                f"POINTSMAN_LORA_ENGINE_URL is needed where POINTSMAN_LORA_ENGINE_LISTEN is {self.engine_listen}: "
                "gateways must be told an address, as in http://10.0.0.5:8101 (in a pod: its IP)"
            )
        return self

    @property
    def public_url(self) -> str:
        return self.engine_url or f"http://{self.engine_listen}"
