"""The gateway's settings, read once from the environment (`POINTSMAN_GATEWAY_*`)."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="POINTSMAN_GATEWAY_", extra="ignore")

    http_listen: str = "127.0.0.1:8080"
    grpc_listen: str = "127.0.0.1:8081"
    grpc_connection_age: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which a gRPC client must connect again, and finds new gateways; 0: never",
    )
    config: Path = Path("config")
    retriever: str = "127.0.0.1:8082"
    dns: str = Field(
        default="", description="HOST:PORT that is asked where groups of engines are; empty: as /etc/resolv.conf says"
    )
    embedding_model: Path = Path(".pointsman/models/minilm")
    classifier: Path | None = Field(
        default=None,
        description="the artefact of `pointsman classifier fit`; not set: the classifier is fitted at start",
    )
    redis_url: str = Field(default="", description="holds the request log, feedback and evidence; empty: there is none")
    keys: Literal["on", "off"] = Field(default="off", description="on: every request must show one; needs redis_url")
    keys_trust: float = Field(
        default=900.0, ge=0, description="seconds that a verified copy of a key is good while Redis is away"
    )
    wal_dir: Path = Field(
        default=Path(".pointsman/wal"), description="folder of the write-ahead log of receipts and feedback"
    )
    reload_seconds: float = Field(default=1.0, gt=0, description="between two looks at the configuration folder")
    freshness_seconds: float = Field(
        default=15.0, gt=0, description="between two looks at what has changed since adapters were trained"
    )
    max_in_flight: int = Field(default=256, ge=1, description="requests at once; more are told to come again")
    max_waiting: int = Field(default=64, ge=0, description="requests that wait for a place, by their priority")
    longest_wait: float = Field(default=1.0, ge=0, description="seconds that a request waits for a place")
    drain_notice: float = Field(
        default=3.0, ge=0, description="seconds on SIGTERM in which all is served though /readyz says no"
    )
    drain_grace: float = Field(default=20.0, ge=0, description="seconds that answers in flight then get to finish")
    request_timeout: float = Field(default=120.0, gt=0, description="seconds for a whole request, fallbacks included")
    log_level: str = "INFO"
    log_form: Literal["text", "json"] = "text"
    tls_certificate: Path | None = Field(
        default=None, description="PEM, of both doors; set with tls_key: they speak TLS only"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; set: a client without a certificate of it is refused at both doors"
    )
    peer_ca: Path | None = Field(
        default=None, description="PEM; set: the retriever and the lora-servers are spoken to over TLS"
    )
    peer_certificate: Path | None = Field(default=None, description="PEM, shown to them; with peer_key")
    peer_key: Path | None = None
    http_connections: int = Field(default=2000, ge=1, description="at once; keep both together below `ulimit -n`")
    grpc_connections: int = Field(default=2000, ge=1, description="at once")
    buffer_megabytes: int = Field(
        default=256, ge=32, description="of request messages in memory, over gRPC; half of it for each tenant"
    )
    redaction: str = Field(
        default="",
        description="MODULE:FUNCTION from a text to what is kept; ours: pointsman_gateway.redaction:redact_common",
    )
    console: Literal["on", "off"] = Field(default="on", description="the page at /console")
    console_hosts: str = Field(
        default="",
        description="names, with commas between, by which the console is reached where keys are off; localhost and "
        "addresses in numbers always are",
    )
    cache_redis_url: str = Field(default="", description="for kept answers; empty: redis_url")
    cache_megabytes: int = Field(default=64, ge=1, description="of each tenant's answers, where paths cache")

    @field_validator("dns")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value:
            host, _, port = value.rpartition(":")
            try:
                ip_address(host.strip("[]"))
                int(port)
            except ValueError:
                raise ValueError("write ADDRESS:PORT, as in 10.96.0.10:53; a name would have to be looked up") from None
        return value
