"""The schema of models.yaml: models with their prices, engines, timeouts, circuit breaker and retries."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.config.providers import (
    DEFAULT_PROVIDER,
    VLLM_FIELDS,
    RequestFields,
    check_provider,
    providers,
    request_fields,
)
from pointsman_gateway.domain import Overflow

LORA_SERVER_GROUP = "dns:///"
"""Prefix of a group of lora-servers, in gRPC's notation: each address of the name has a lora-server and its engine."""
ENGINE_GROUP = "dns+http://"
"""Prefix of a group of engines: each address of the name is an OpenAI-compatible engine."""

DEFAULT_MAX_ENDPOINTS = 64

_CALLER_SETTINGS = ("priority_scheduling", "prefix_cache_per_tenant")

ModelName = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
"""Printable ASCII without spaces, as HTTP headers require."""

ProviderName = Annotated[str, AfterValidator(check_provider)]
"""A name in providers.yaml."""

Section = TypeVar("Section", bound=Strict)


@dataclass(frozen=True, slots=True)
class DnsName:
    """A DNS name whose addresses are the members of a group of engines."""

    host: str
    port: int
    path: str = ""
    """Prefix of the URL paths of each engine; usually empty."""

    def endpoint(self, address: str) -> str:
        """Return HOST:PORT for one of the name's addresses."""
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


def parse_group(lora_server: str, url: str) -> DnsName | None:
    """Return the group that one of the settings names; None if neither does. Raises ValueError if one is malformed."""
    if lora_server.startswith(LORA_SERVER_GROUP):
        return _parse(lora_server, "//" + lora_server.removeprefix(LORA_SERVER_GROUP), f"{LORA_SERVER_GROUP}NAME:PORT")
    if url.startswith(ENGINE_GROUP):
        return _parse(url, "//" + url.removeprefix(ENGINE_GROUP), f"{ENGINE_GROUP}NAME:PORT")
    for setting, prefix in ((lora_server, LORA_SERVER_GROUP), (url, ENGINE_GROUP)):
        if setting.startswith("dns"):
            raise ValueError(f"'{setting}' is no group of engines; write {prefix}NAME:PORT")
    return None


def _parse(setting: str, location: str, expected: str) -> DnsName:
    parts = urlsplit(location)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.username or parts.query:
        raise ValueError(f"'{setting}' is no group of engines; write {expected}")
    if _is_address(host):
        raise ValueError(f"'{setting}' is one address and no name; write it as a single engine, without dns")
    return DnsName(host, port, parts.path.rstrip("/"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Prices(Strict):
    """Dollars per million tokens. There is no default, because an unknown price must not count as 0."""

    prompt: float = Field(ge=0)
    cached: float = Field(ge=0)
    completion: float = Field(ge=0)


def _none_if_unknown(written: object) -> object:
    if written == "unknown":
        return None
    if not isinstance(written, Mapping | Prices):
        raise ValueError("write {prompt: DOLLARS, cached: DOLLARS, completion: DOLLARS}, or unknown")
    return written


class ModelConfig(Strict):
    context_window: int = Field(ge=1, description="tokens, prompt and answer together")
    usd_per_million_tokens: Annotated[Prices | None, BeforeValidator(_none_if_unknown)] = Field(
        description="or `unknown`: costs in dollars are then null, and no budget in dollars may pay for it"
    )
    """None if it is unknown."""


class Timeouts(Strict):
    """Limits for the parts of one answer. The request's own deadline applies in addition."""

    connect_seconds: float = Field(default=2.0, gt=0, le=60)
    first_token_seconds: float = Field(default=60.0, gt=0, le=3600, description="from sending the request")
    stream_idle_seconds: float = Field(default=60.0, gt=0, le=3600, description="between two chunks of the answer")


class BreakerConfig(Strict):
    """The circuit breaker of each engine: when it opens, and for how long."""

    enabled: bool = True
    consecutive_failures: int = Field(default=5, ge=1, le=1000, description="that open it")
    failure_rate: float = Field(default=0.5, gt=0, le=1, description="share of failures in the window that opens it")
    window_seconds: float = Field(default=10.0, gt=0, le=600)
    min_requests: int = Field(default=20, ge=1, description="in the window; with fewer the failure rate is ignored")
    open_duration_seconds: float = Field(
        default=5.0, gt=0, le=600, description="until one request probes the engine; doubled after each failed probe"
    )
    max_open_duration_seconds: float = Field(default=30.0, gt=0, le=3600, description="upper limit of the doubling")


class RetryConfig(Strict):
    """How often a request may be sent again before its first token."""

    max_retries: int = Field(default=2, ge=0, le=10, description="for one request on one path")
    budget_ratio: float = Field(
        default=0.2, ge=0, le=1, description="retries per request, over about the last ten seconds"
    )
    min_retries: int = Field(default=20, ge=0, description="in about ten seconds, whatever the budget ratio allows")
    backoff_seconds: float = Field(
        default=0.05, ge=0, le=10, description="upper limit before the first retry; doubled for each further one"
    )
    max_backoff_seconds: float = Field(default=1.0, ge=0, le=60)


class ResilienceConfig(Strict):
    """What the gateway does about engines that fail or are slow."""

    timeouts: Timeouts = Timeouts()
    breaker: BreakerConfig = BreakerConfig()
    retries: RetryConfig = RetryConfig()
    hedge_after_seconds: float | None = Field(
        default=None, gt=0, description="without a first token, until a second engine gets the request; unset: never"
    )
    load_bound: float = Field(
        default=1.25,
        ge=1,
        le=10,
        description="times the mean load, up to which an engine keeps receiving the prompts in its prefix cache",
    )
    adapter_load_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="that a request waits for an adapter that no engine holds yet"
    )


class EngineConfig(Strict):
    """A vLLM with a lora-server, or any OpenAI-compatible endpoint by its URL; or a group of either."""

    model: str
    lora_server: str = Field(default="", description="HOST:PORT, or of a group dns:///NAME:PORT")
    url: str = Field(default="", description="http://HOST:PORT, or of a group dns+http://NAME:PORT")
    adapters: Literal["discover"] | None = Field(
        default=None,
        description="discover: read the adapters of an engine with a url from its /v1/models; unset: it has none",
    )
    max_endpoints: int | None = Field(
        default=None, ge=1, le=1000, description=f"members of a group that are used; unset: {DEFAULT_MAX_ENDPOINTS}"
    )
    api_key_env: str = Field(default="", description="the environment variable with the API key")
    provider: ProviderName = DEFAULT_PROVIDER
    timeouts: Timeouts | None = Field(default=None, description="unset keys are taken from `resilience`")
    breaker: BreakerConfig | None = Field(default=None, description="unset keys are taken from `resilience`")
    usd_per_hour: float | None = Field(
        default=None,
        gt=0,
        description="of an engine that you run, or of each member; divided among the paths by the engine's busy time",
    )
    request_fields: tuple[str, ...] = Field(
        default=(), description="fields that requests may have in addition to those in docs/api.md"
    )
    priority_scheduling: bool = Field(
        default=False, description="send the key's priority: of a vLLM with --scheduling-policy priority"
    )
    prefix_cache_per_tenant: bool = Field(
        default=False, description="send a cache_salt of the tenant: no tenant can find out what others have asked"
    )

    @model_validator(mode="after")
    def _has_one_address(self) -> "EngineConfig":
        if bool(self.lora_server) == bool(self.url):
            raise ValueError("an engine has either a lora_server (HOST:PORT) or a url (http://HOST:PORT)")
        if self.adapters and not self.url:
            raise ValueError(
                "'adapters: discover' is for engines with a url; a lora_server reports the adapters itself"
            )
        if self.group is None and self.max_endpoints is not None:
            raise ValueError("'max_endpoints' is for groups of engines (dns:///NAME:PORT, dns+http://NAME:PORT) alone")
        return self

    @property
    def discovers_adapters(self) -> bool:
        return self.adapters == "discover"

    @property
    def has_adapters(self) -> bool:
        """Whether paths with adapters may use it."""
        return bool(self.lora_server) or self.discovers_adapters

    @property
    def is_watched(self) -> bool:
        """Whether it is used only after a first report of its state."""
        return self.has_adapters or self.group is not None

    @property
    def group(self) -> DnsName | None:
        """The DNS name of the group's members; None for a single engine."""
        return parse_group(self.lora_server, self.url)

    @property
    def endpoint_limit(self) -> int:
        return self.max_endpoints or DEFAULT_MAX_ENDPOINTS

    @property
    def identity(self) -> "EngineConfig":
        """The settings that make it this engine. Its state is kept if only others change."""
        others = ("timeouts", "breaker", "usd_per_hour", "request_fields", *_CALLER_SETTINGS)
        return self.model_copy(update={name: type(self).model_fields[name].default for name in others})

    @property
    def accepted_fields(self) -> RequestFields:
        """The fields that a request to it may have."""
        is_vllm = self.lora_server or (self.discovers_adapters and "provider" not in self.model_fields_set)
        kind = VLLM_FIELDS if is_vllm else providers()[self.provider].request_fields
        return request_fields(kind).with_forwarded(self.request_fields)


class EmbeddingConfig(Strict):
    """A model of `/v1/embeddings`: the gateway's own, or that of an OpenAI-compatible endpoint."""

    usd_per_million_tokens: float = Field(ge=0)
    local: bool = False
    url: str = ""
    api_key_env: str = Field(default="", description="the environment variable with the API key")
    provider: ProviderName = DEFAULT_PROVIDER
    model: str = Field(default="", description="the endpoint's name for it; empty: the same name")
    overflow: Overflow = Field(
        default="error", description="of the local model: what is done with texts that are too long for it"
    )

    @model_validator(mode="after")
    def _is_local_or_remote(self) -> "EmbeddingConfig":
        if self.local == bool(self.url):
            raise ValueError("an embedding model is either local: true or has a url (http://HOST:PORT)")
        if self.local and (self.api_key_env or self.model):
            raise ValueError("the local embedding model has no api_key_env and no model")
        if self.url and self.overflow != "error":
            raise ValueError("overflow is for local: true alone")
        return self


class RetrievalPrices(Strict):
    """Prices of retrieval; there is no default here either."""

    usd_per_search: float = Field(ge=0)
    usd_per_embedding: float = Field(ge=0, description="of one text, to classify it or to search for it")


class TrainingConfig(Strict):
    """How requests pay for the training of their adapter, by the training time that the adapter's report states."""

    usd_per_hour: float = Field(gt=0, description="of the machine that trains")
    expected_requests: int = Field(ge=1, description="in the life of a version; each pays an equal part")
    expected_days: float = Field(gt=0, description="that a version serves; sets what it costs while it is idle")


class CachePrices(Strict):
    usd_per_hit: float = Field(ge=0, description="for an answer that comes from the cache")


class ModelsFile(Strict):
    prices_as_of: date | None = Field(
        default=None,
        description="the day on which the prices were last checked, YYYY-MM-DD; required if anything has a price",
    )
    models: dict[ModelName, ModelConfig]
    engines: dict[str, EngineConfig]
    retrieval: RetrievalPrices | None = Field(
        default=None, description="required if a path looks something up; unset: embedding a request costs nothing"
    )
    cache: CachePrices | None = Field(default=None, description="required if a path caches")
    resilience: ResilienceConfig = ResilienceConfig()
    embeddings: dict[ModelName, EmbeddingConfig] = Field(default_factory=dict)
    training: TrainingConfig | None = Field(default=None, description="unset: costs do not include training")
    aliases: dict[ModelName, ModelName] = Field(
        default_factory=dict, description="other names for anything that a request's model may say: {gpt-4o-mini: auto}"
    )
    catch_all: ModelName | None = Field(
        default=None, description="what a request gets whose model is unknown; unset: an error"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ModelsFile":
        both = self.models.keys() & self.embeddings.keys()
        if both:
            raise ValueError(f"'{min(both)}' is a model and an embedding model; give them different names")
        return self

    @model_validator(mode="after")
    def _prices_have_a_date(self) -> "ModelsFile":
        hourly = any(engine.usd_per_hour for engine in self.engines.values())
        tokens = any(model.usd_per_million_tokens is not None for model in self.models.values())
        if self.prices_as_of is None and (
            hourly or tokens or self.embeddings or self.retrieval or self.cache or self.training
        ):
            raise ValueError("'prices_as_of' is missing: the day on which the prices were last checked, YYYY-MM-DD")
        return self

    @model_validator(mode="after")
    def _no_engine_is_named_like_a_member(self) -> "ModelsFile":
        for name in self.engines:
            group = name.rpartition("/")[0]
            if group in self.engines and self.engines[group].group:
                raise ValueError(f"engine '{name}' is called like a member of group '{group}'; give it another name")
        return self

    def timeouts_of(self, engine: str) -> Timeouts:
        """Return the engine's own timeouts, with unset ones taken from `resilience`."""
        return _merged(self.engines[engine].timeouts, self.resilience.timeouts)

    def breaker_of(self, engine: str) -> BreakerConfig:
        """Return the engine's own breaker settings, with unset ones taken from `resilience`."""
        return _merged(self.engines[engine].breaker, self.resilience.breaker)


def _merged(own: Section | None, default: Section) -> Section:
    return default if own is None else default.model_copy(update=own.model_dump(exclude_unset=True))
