"""The lora-server's settings, read once from the environment (`POINTSMAN_LORA_*`)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_LORA_", extra="ignore")

    listen: str = "127.0.0.1:8083"
    metrics_listen: str = "127.0.0.1:9083"
    redis_url: str = "redis://127.0.0.1:6379/0"
    store: Path = Path(".pointsman/adapters")
    engine_name: str = Field(default="local", min_length=1, description="the engine's name in models.yaml")
    engine_python: Path = Path(".venv-engine/bin/python")
    engine_listen: str = "127.0.0.1:8101"
    engine_url: str = Field(default="", description="where gateways reach the engine; empty: http://ENGINE_LISTEN")
    engine_args: str = Field(default="", description="more arguments for vLLM, as in a shell")
    base_model: Path = Path(".pointsman/models/smollm2-135m")
    served_model_name: str = Field(default="smollm2-135m", min_length=1)
    max_loras: int = Field(default=4, ge=2, description="slots of the engine; one of them is kept free")
    max_lora_rank: int = Field(default=8, ge=1, le=512)
    max_model_len: int = Field(default=4096, ge=16, description="tokens, prompt and answer together")
    log_level: str = "INFO"

    @property
    def public_url(self) -> str:
        return self.engine_url or f"http://{self.engine_listen}"
