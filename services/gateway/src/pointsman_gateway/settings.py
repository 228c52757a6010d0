"""The gateway's settings, read once from the environment (`POINTSMAN_GATEWAY_*`)."""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pointsman_servicekit.kubernetes import SERVICE_ACCOUNT
from pointsman_servicekit.logs import LogFormat, LogLevel
from pointsman_servicekit.setting_names import require_known_settings
from pointsman_servicekit.setting_values import UNIX_PREFIX, WrongSetting, require_address, require_grpc_address
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "POINTSMAN_GATEWAY_"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:[0-9]{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:[0-9]{1,5})?")
"""Matches an origin (scheme, host and port of a web page) as browsers write it (RFC 6454, section 6.2)."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    http_listen: str = "127.0.0.1:8080"
    grpc_listen: str = "127.0.0.1:8081"
    metrics_listen: str = Field(
        default="",
        description="HOST:PORT of /metrics, /openapi.json, /docs and health checks; empty: http_listen has them all",
    )
    ext_proc_listen: str = Field(
        default="",
        description="HOST:PORT of the external processing server for Envoy; empty: there is none",
    )
    grpc_max_connection_age: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which a gRPC client must reconnect, and so finds new gateways; 0: no limit",
    )
    config: Path = Path("config")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes on the same ports; the limits below apply to each process, as to each replica",
    )
    retriever: str = "127.0.0.1:8082"
    dns: str = Field(
        default="",
        description="HOST:PORT of the DNS server that resolves groups of engines; empty: that of /etc/resolv.conf",
    )
    service_account: Path = Field(
        default=SERVICE_ACCOUNT, description="folder with the pod's token and the API server's CA, for InferencePools"
    )
    embedding_model: Path = Path(".pointsman/models/minilm")
    classifier: Path | None = Field(
        default=None,
        description="a file written by `pointsman classifier fit`; unset: the classifier is fitted at start",
    )
    classifier_cache: Path | None = Field(
        default=None,
        description="folder for fitted classifiers, so that a start with known examples does not fit; unset: none",
    )
    redis_url: str = Field(
        default="",
        description="holds keys, limits, the request log and evidence; empty: there is none; also redis+sentinel:// and redis+cluster://",
    )
    auth: Literal["on", "off"] = Field(default="off", description="on: every request needs a key; needs redis_url")
    key_cache_ttl: float = Field(
        default=900.0, ge=0, description="seconds for which a verified key is accepted while Redis is not available"
    )
    wal_dir: Path = Field(
        default=Path(".pointsman/wal"), description="folder of the write-ahead log of receipts and feedback"
    )
    export_max_bytes: int = Field(
        default=0,
        ge=0,
        description="of records that wait in wal_dir/export for the exporter (docs/records.md), which also needs "
        "redis_url; 0: nothing is exported",
    )
    reload_seconds: float = Field(default=1.0, gt=0, description="interval of checks for a changed configuration")
    discovery_seconds: float = Field(
        default=5.0, gt=0, description="interval at which engines with `adapters: discover` list their adapters"
    )
    freshness_seconds: float = Field(
        default=15.0,
        gt=0,
        description="interval of checks for changed documents: since adapters were trained, and by which questions are "
        "recognized",
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="concurrent requests; further ones are queued. Unset: as many as there is memory for, at most 4096",
    )
    tenant_share: float = Field(
        default=0.9375,
        gt=0,
        le=1,
        description="of the concurrent requests that one tenant may have if it is alone; the rest is for others",
    )
    queue_size: int = Field(default=1024, ge=0, description="queued requests; further ones are rejected")
    queue_timeout: float = Field(default=10.0, ge=0, description="seconds that a request may stay queued")
    shutdown_delay: float = Field(
        default=3.0, ge=0, description="seconds after SIGTERM in which requests are accepted while /readyz fails"
    )
    shutdown_timeout: float = Field(default=20.0, ge=0, description="seconds that answers in flight then get to finish")
    request_timeout: float = Field(default=600.0, gt=0, description="seconds for a whole request, fallbacks included")
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"
    tls_certificate: Path | None = Field(
        default=None, description="PEM, for HTTP and gRPC; set with tls_key: only TLS connections are accepted"
    )
    tls_key: Path | None = Field(default=None, description="PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM; set: clients must present a certificate that this CA signed"
    )
    client_tls_ca: Path | None = Field(
        default=None, description="PEM; set: the gateway connects to the retriever and the lora-servers with TLS"
    )
    client_tls_certificate: Path | None = Field(
        default=None, description="PEM, which the gateway presents to them; set with client_tls_key"
    )
    client_tls_key: Path | None = None
    service_token_file: Path | None = Field(
        default=None, description="contains the token that the gateway sends to the retriever and the lora-servers"
    )
    http_connections: int | None = Field(
        default=None, ge=1, description="concurrent connections; unset: max_in_flight and 1024 idle ones"
    )
    grpc_connections: int | None = Field(default=None, ge=1, description="concurrent connections; unset: as over HTTP")
    buffer_megabytes: int = Field(
        default=256, ge=32, description="of request bodies in memory, over HTTP and gRPC; half of it for each tenant"
    )
    redaction: str = Field(
        default="",
        description="MODULE:FUNCTION that redacts texts before they are stored; ours is "
        "pointsman_gateway.redaction:redact_common",
    )
    trace_text: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="number of characters of the conversation and of the answer that each recorded trace contains, "
        "redacted; 0: no text",
    )
    console: Literal["on", "off"] = Field(default="on", description="the page at /console")
    console_hosts: str = Field(
        default="",
        description="host names, separated by commas, that the console accepts without authentication; localhost and "
        "IP addresses are always accepted",
    )
    console_records: str = Field(
        default="",
        description="folder or URL of exported Parquet files, from which the console reads decisions that Redis has no "
        "longer; needs pointsman[parquet]; empty: none",
    )
    cors_origins: str = Field(
        default="",
        description="origins, separated by commas, whose web pages may call the API (https://app.example.com), or *; "
        "empty: none",
    )
    cache_redis_url: str = Field(default="", description="holds cached answers; empty: redis_url")
    conversation_ttl: float = Field(
        default=14_400.0, gt=0, description="seconds after its last request in which a conversation keeps its path"
    )
    cache_megabytes: int = Field(default=64, ge=1, description="limit for the cached answers of each tenant")

    @field_validator("service_token_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("http_listen")
    @classmethod
    def _is_http_address(cls, value: str) -> str:
        return require_address(value)

    @field_validator("grpc_listen")
    @classmethod
    def _is_grpc_address(cls, value: str) -> str:
        return require_grpc_address(value)

    @field_validator("metrics_listen", "ext_proc_listen")
    @classmethod
    def _is_empty_or_address(cls, value: str) -> str:
        return value and require_address(value)

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        if self.workers > 1 and self.grpc_listen.startswith(UNIX_PREFIX):
            raise ValueError(
                f"POINTSMAN_GATEWAY_GRPC_LISTEN is {self.grpc_listen}: only one process can listen at a Unix socket; "
                "write HOST:PORT, or set POINTSMAN_GATEWAY_WORKERS=1"
            )
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        origins = _split(value)
        for origin in origins:
            if origin == "*" and len(origins) > 1:
                raise ValueError("'*' already means all origins; write it alone")
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"'{origin}' is no origin; write scheme://host or scheme://host:port in lower case")
        return value

    @property
    def origins(self) -> tuple[str, ...]:
        """Returns the origins in `cors_origins` as a tuple; empty if none is set."""
        return _split(self.cors_origins)

    @field_validator("console_records")
    @classmethod
    def _is_one_place_without_password(cls, value: str) -> str:
        if "," in value or value.startswith("otlp+"):
            raise ValueError("name the one folder or URL of POINTSMAN_EXPORT_TARGET that has Parquet files")
        if ":" in value.partition("://")[2].partition("/")[0].rpartition("@")[0]:  # the place is logged
            raise ValueError("the URL has a password: remove it, and use the store's own environment variables")
        return value

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


def read_settings() -> Settings:
    """Reads the settings from the environment variables with the prefix `POINTSMAN_GATEWAY_`.

    Raises UnknownSetting if a variable with the prefix names no setting, WrongSetting if a setting's value is invalid.
    """
    require_known_settings(PREFIX, Settings.model_fields, os.environ)
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(PREFIX, error.errors()) from error


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
