"""The lora-server's settings, read once from the environment (`POINTSMAN_LORA_*`)."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pointsman_servicekit.kubernetes import SERVICE_ACCOUNT
from pointsman_servicekit.logs import LogFormat, LogLevel
from pointsman_servicekit.setting_names import require_known_settings
from pointsman_servicekit.setting_values import WrongSetting, require_address, require_grpc_address
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "POINTSMAN_LORA_"
DEFAULT_ENGINE_LISTEN = "127.0.0.1:8101"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    listen: str = "127.0.0.1:8083"
    metrics_listen: str = "127.0.0.1:9083"
    tokens: Path | None = Field(
        default=None, description="a file with one NAME ROLE TOKEN a line; if set, every gRPC call needs a token"
    )
    redis_url: str = "redis://127.0.0.1:6379/0"
    store: str = Field(default=".pointsman/adapters", min_length=1, description="a folder, or an fsspec URL: s3://...")
    store_cache: Path = Field(
        default=Path(".pointsman/adapters-fetched"), description="local copies of versions from a store behind a URL"
    )
    jobs: Path = Field(default=Path(".pointsman/jobs"), description="training jobs: their data, logs and checkpoints")
    data_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="folders, separated by colons, below which clients may name training data; empty: none is read",
    )
    training_methods: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="more training methods, NAME=MODULE:ATTRIBUTE separated by commas, from the engine's environment",
    )
    engine_name: str = Field(default="local", min_length=1, description="the engine's name in models.yaml")
    engine_python: Path = Field(
        default=Path(".venv-engine/bin/python"), description="runs vLLM, smoke tests and training"
    )
    engine_listen: str = Field(
        default="", description="where vLLM is started; unset, and without ENGINE_URL: 127.0.0.1:8101"
    )
    engine_url: str = Field(
        default="",
        pattern=r"^(https?://[^/]+.*)?$",
        description="where gateways reach the engine; empty: http://ENGINE_LISTEN. Without ENGINE_LISTEN no engine is "
        "started: the lora-server attaches to the one that runs at this URL",
    )
    engine_api: Literal["vllm", "sglang"] = Field(
        default="vllm", description="how an attached engine loads adapters at run time"
    )
    engine_secret: SecretStr = Field(
        default=SecretStr(""), description="the guard's secret in an attached vLLM; empty: there is no guard"
    )
    engine_store: str = Field(
        default="", description="the adapters' folder as an attached engine sees it; empty: under the same path"
    )
    engine_files: Literal["shared", "sent"] = Field(
        default="shared",
        description="how an attached vLLM with the guard gets a version's files: it has the store mounted, or the "
        "lora-server sends them",
    )
    engine_args: str = Field(default="", description="more arguments for vLLM, quoted as in a shell")
    tool_call_parser: str = Field(
        default="auto",
        min_length=1,
        description='how vLLM reads tool calls: "auto" (by the base model), "off", or the name of one of its parsers',
    )
    base_model: Path = Path(".pointsman/models/smollm2-135m")
    served_model_name: str = Field(default="smollm2-135m", min_length=1)
    base_model_names: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="more names by which adapters may state this base model, separated by commas, as its name at the "
        "Hugging Face hub",
    )
    held: int | None = Field(
        default=None,
        ge=1,
        description="adapter versions that the engine holds in its host memory; by default as many as fit into a "
        "quarter of the memory that is available at the start, at most 512",
    )
    config_map: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$",
        description="the ConfigMap in the pod's namespace that names the adapters for llm-d's payload processor; "
        "empty: none is written",
    )
    service_account: Path = Field(
        default=SERVICE_ACCOUNT, description="folder with the pod's token and the API server's CA, for config_map"
    )
    placement: Literal["all", "auto"] = Field(
        default="all",
        description='where adapters are loaded for which nobody has set it: "all" on every engine, "auto" by demand; '
        "the same at all lora-servers of a base model",
    )
    placement_moves_per_minute: float = Field(
        default=12.0, gt=0, description="how many copies placement by demand loads in a minute, on all engines together"
    )
    tokens_per_second: float | None = Field(
        default=None,
        gt=0,
        description="what the engine generates when it is busy, for placement by demand; by default the highest rate "
        "that it has shown",
    )
    max_loras: int = Field(
        default=4, ge=1, description="different adapters in one batch of the engine; vLLM copies them from host memory"
    )
    max_lora_rank: int = Field(default=8, ge=1, le=512)
    max_model_len: int = Field(
        default=4096, ge=0, description="tokens of prompt and answer together; 0: the base model's own context window"
    )
    start_timeout: float = Field(
        default=3600.0,
        ge=1,
        description="seconds after which vLLM's start counts as hanging; large models take minutes",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description='number type of the engine; "auto": the model\'s own on a GPU and on CPUs with bfloat16 '
        "instructions, else float32, which is faster there",
    )
    smoke_test: Literal["process", "off"] = Field(
        default="process", description="whether each version is tested with PEFT, in a separate process"
    )
    smoke_test_prompts: int = Field(default=4, ge=1, le=64)
    smoke_test_cpu_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of one core that a test with PEFT may use while other processes, such as the engine, use "
        "more than half of the cores; 1: no limit",
    )
    probe_interval_seconds: float = Field(default=30.0, gt=0, description="between two probes of the base model")
    slot_wait_timeout_seconds: float = Field(default=30.0, gt=0, description="how long a load waits for a slot")
    shutdown_delay: float = Field(
        default=3.0,
        ge=0,
        description="seconds after SIGTERM in which requests are still served while gateways move to other engines",
    )
    shutdown_timeout: int = Field(
        default=20,
        ge=1,
        description="seconds that requests in flight may then take before vLLM is told to stop",
    )
    protected_aliases: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset({"prod"}),
        description='suffixes (after the "@"), separated by commas, that accept only versions better than prompting',
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM, for the gRPC server; set with tls_key, it accepts TLS only"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; if set, clients without a certificate signed by it are refused"
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

    @field_validator("engine_listen")
    @classmethod
    def _is_empty_or_address(cls, value: str) -> str:
        return value and require_address(value)

    @field_validator("tokens", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("protected_aliases", "base_model_names", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return frozenset(_split(value)) if isinstance(value, str) else value

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return tuple(Path(folder) for folder in value.split(os.pathsep) if folder) if isinstance(value, str) else value

    @field_validator("training_methods", mode="before")
    @classmethod
    def _split_methods(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [entry.partition("=") for entry in _split(value)]
        for name, _, target in pairs:
            module, _, attribute = target.partition(":")
            if not (name and module and attribute):
                raise ValueError(f"'{name}={target}' is not NAME=MODULE:ATTRIBUTE, as in kto=my_package.methods:KTO")
        return {name: target for name, _, target in pairs}

    @model_validator(mode="after")
    def _check_held(self) -> "Settings":
        if self.held is not None and self.held < self.max_loras:
            raise ValueError(
                f"POINTSMAN_LORA_HELD ({self.held}) must be at least POINTSMAN_LORA_MAX_LORAS ({self.max_loras}): "
                "every adapter of a batch is also in the host memory"
            )
        return self

    @model_validator(mode="after")
    def _check_engine_url(self) -> "Settings":
        self.engine_url = self.engine_url.rstrip("/")
        if not self.engine_url and not self.engine_listen:
            self.engine_listen = DEFAULT_ENGINE_LISTEN
        host = self.engine_listen.rpartition(":")[0].strip("[]")
        if self.engine_listen and host in ("", "0.0.0.0", "::") and not self.engine_url:
            raise ValueError(
                f"POINTSMAN_LORA_ENGINE_URL is needed if POINTSMAN_LORA_ENGINE_LISTEN is {self.engine_listen}: "
                "gateways need an address, as in http://10.0.0.5:8101 (in a pod: its IP)"
            )
        return self

    @model_validator(mode="after")
    def _check_attached(self) -> "Settings":
        """Raises ValueError for a setting that has no effect with this kind of engine (attached, or started by this
        process).
        """
        if self.is_attached:
            given = {"engine_args": self.engine_args}
            reason = "is for an engine that is started here; give it to the engine at POINTSMAN_LORA_ENGINE_URL"
        else:
            secret = self.engine_secret.get_secret_value()
            given = {"engine_secret": secret, "engine_store": self.engine_store}
            given["engine_api"] = "" if self.engine_api == "vllm" else self.engine_api
            given["engine_files"] = "" if self.engine_files == "shared" else self.engine_files
            reason = "is for an engine that runs already: set POINTSMAN_LORA_ENGINE_URL, without ENGINE_LISTEN"
        for name, value in given.items():
            if value:
                raise ValueError(f"POINTSMAN_LORA_{name.upper()} {reason}")
        if self.engine_api != "vllm" and self.engine_secret.get_secret_value():
            raise ValueError("POINTSMAN_LORA_ENGINE_SECRET is for vLLM's guard, which no other engine has")
        if self.engine_files == "sent" and not self.engine_secret.get_secret_value():
            raise ValueError("POINTSMAN_LORA_ENGINE_FILES=sent needs the guard in vLLM, and ENGINE_SECRET here")
        if self.engine_files == "sent" and self.engine_store:
            raise ValueError("POINTSMAN_LORA_ENGINE_STORE is for an engine that reads the store, not with FILES=sent")
        return self

    @property
    def is_attached(self) -> bool:
        """Returns whether the lora-server attaches to a running engine instead of starting one."""
        return not self.engine_listen

    @property
    def public_url(self) -> str:
        return self.engine_url or f"http://{self.engine_listen}"

    @property
    def local_store(self) -> Path:
        """Returns the folder on this machine from which adapters are loaded: `store`, or `store_cache` if `store` is a
        URL.
        """
        return self.store_cache if "://" in self.store else Path(self.store)


def read_settings() -> Settings:
    """Reads the settings from the environment variables `POINTSMAN_LORA_*`.

    Raises UnknownSetting if a variable with this prefix is not a setting, and WrongSetting if a value cannot be used.
    """
    # The command and the configuration use POINTSMAN_LORA_SERVER, often in the same environment.
    require_known_settings(PREFIX, Settings.model_fields, os.environ, {"POINTSMAN_LORA_SERVER"})
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(PREFIX, error.errors()) from error


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
