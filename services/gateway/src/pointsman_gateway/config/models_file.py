"""How models.yaml writes a group of engines: a name that DNS knows, and a port."""

import ipaddress
from dataclasses import dataclass
from datetime import date
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pointsman_gateway.config.strict import Strict

LORA_SERVER_GROUP = "dns:///"
"""As gRPC writes it: each address of the name is a lora-server, with its engine beside it."""
ENGINE_GROUP = "dns+http://"
"""Each address of the name is an OpenAI-compatible engine."""


@dataclass(frozen=True, slots=True)
class DnsName:
    host: str
    port: int
    path: str = ""
    """That all paths of an engine begin with; mostly empty."""

    def address_of(self, address: str) -> str:
        """HOST:PORT of one of its addresses."""
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


def parse_group(lora_server: str, url: str) -> DnsName | None:
    """None where neither names a group. Raises ValueError where one is written wrongly."""
    if lora_server.startswith(LORA_SERVER_GROUP):
        return _read(lora_server, "//" + lora_server.removeprefix(LORA_SERVER_GROUP), f"{LORA_SERVER_GROUP}NAME:PORT")
    if url.startswith(ENGINE_GROUP):
        return _read(url, "//" + url.removeprefix(ENGINE_GROUP), f"{ENGINE_GROUP}NAME:PORT")
    for written, right in ((lora_server, LORA_SERVER_GROUP), (url, ENGINE_GROUP)):
        if written.startswith("dns"):
            raise ValueError(f"'{written}' is no group of engines; write {right}NAME:PORT")
    return None


def _read(written: str, location: str, right: str) -> DnsName:
    parts = urlsplit(location)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.username or parts.query:
        raise ValueError(f"'{written}' is no group of engines; write {right}")
    if _is_address(host):
        raise ValueError(f"'{written}' is one address and no name; write it as any engine, without dns")
    return DnsName(host, port, parts.path.rstrip("/"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


Section = TypeVar("Section", bound=Strict)

ModelName = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
"""As HTTP headers can say it: printable ASCII without spaces."""


class Prices(Strict):
    """Dollars for a million tokens. There is no default: an unknown price is an error, never 0."""

    prompt: float = Field(ge=0)
    cached: float = Field(ge=0)
    completion: float = Field(ge=0)


class ModelConfig(Strict):
    context_window: int = Field(ge=1, description="tokens, prompt and answer together")
    prices: Prices


class Timeouts(Strict):
    """Seconds that an engine gets for each part of an answer; the request's deadline stands over all of them."""

    connect: float = Field(default=2.0, gt=0, le=60)
    first_token: float = Field(default=60.0, gt=0, le=3600, description="from asking to the first token")
    gap: float = Field(default=60.0, gt=0, le=3600, description="between two pieces of the answer")


class BreakerConfig(Strict):
    """When an engine is left alone, and for how long."""

    enabled: bool = True
    failures: int = Field(default=5, ge=1, le=1000, description="in a row, that open it")
    rate: float = Field(default=0.5, gt=0, le=1, description="share of failures within `window` that opens it")
    window: float = Field(default=10.0, gt=0, le=600, description="seconds")
    least: int = Field(default=20, ge=1, description="answers within `window`; of fewer the share tells nothing")
    rest: float = Field(default=5.0, gt=0, le=600, description="seconds until one request tries it; doubled each time")
    longest_rest: float = Field(default=30.0, gt=0, le=3600, description="seconds; what doubling leads to")


class RetryConfig(Strict):
    """How often a request may be sent again, before its first token."""

    most: int = Field(default=2, ge=0, le=10, description="of one request on one path")
    share: float = Field(default=0.2, ge=0, le=1, description="of the requests of about the last ten seconds")
    floor: int = Field(default=20, ge=0, description="in about ten seconds, whatever the share is")
    backoff: float = Field(default=0.05, ge=0, le=10, description="seconds at most before the first; then doubled")
    longest_backoff: float = Field(default=1.0, ge=0, le=60, description="seconds")


class ResilienceConfig(Strict):
    """What is done about engines that fail or are slow."""

    timeouts: Timeouts = Timeouts()
    breaker: BreakerConfig = BreakerConfig()
    retries: RetryConfig = RetryConfig()
    hedge_after: float | None = Field(
        default=None, gt=0, description="seconds without a first token until a second engine is asked; not set: never"
    )
    load_bound: float = Field(
        default=1.25, ge=1, le=10, description="times the mean load, up to which an engine keeps the prompts it knows"
    )
    adapter_load_timeout: float = Field(
        default=30.0, gt=0, le=600, description="seconds that a request waits for an adapter which no engine holds yet"
    )


DEFAULT_MAX_ENDPOINTS = 64


class EngineConfig(Strict):
    """A vLLM with a lora-server beside it, or any OpenAI-compatible endpoint by its URL; or a group of either."""

    model: str
    lora_server: str = Field(default="", description="HOST:PORT, or of a group dns:///NAME:PORT")
    url: str = Field(default="", description="http://HOST:PORT, or of a group dns+http://NAME:PORT")
    most: int | None = Field(default=None, ge=1, le=1000, description="members of a group that are used; 64")
    api_key_env: str = ""
    timeouts: Timeouts | None = Field(default=None, description="what is not written is as in `resilience`")
    breaker: BreakerConfig | None = Field(default=None, description="what is not written is as in `resilience`")
    dollars_per_hour: float | None = Field(
        default=None,
        gt=0,
        description="of an own engine, or of each member: shared out among the paths by its own time",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "EngineConfig":
        if bool(self.lora_server) == bool(self.url):
            raise ValueError("an engine has either a lora_server (HOST:PORT) or a url (http://HOST:PORT)")
        if self.group is None and self.most is not None:
            raise ValueError("'most' is for groups of engines (dns:///NAME:PORT, dns+http://NAME:PORT) alone")
        return self

    @property
    def group(self) -> DnsName | None:
        """The name that leads to its members; None where it is one engine."""
        return parse_group(self.lora_server, self.url)

    @property
    def most_members(self) -> int:
        return self.most or DEFAULT_MAX_ENDPOINTS

    @property
    def identity(self) -> "EngineConfig":
        """What makes it this engine: what is known of it stays where only its terms or its price change."""
        return self.model_copy(update={"timeouts": None, "breaker": None, "dollars_per_hour": None})


class EmbeddingConfig(Strict):
    """A model of `/v1/embeddings`: the gateway's own, or one of an OpenAI-compatible endpoint by its URL."""

    price: float = Field(ge=0, description="dollars for a million tokens")
    local: bool = False
    url: str = ""
    api_key_env: str = ""
    model: str = Field(default="", description="as the endpoint calls it; empty: by the same name")

    @model_validator(mode="after")
    def _one_of_both(self) -> "EmbeddingConfig":
        if self.local == bool(self.url):
            raise ValueError("an embedding model is either local: true or has a url (http://HOST:PORT)")
        if self.local and (self.api_key_env or self.model):
            raise ValueError("the local embedding model has no api_key_env and no model")
        return self


class RetrievalPrices(Strict):
    """There is no default here either."""

    search: float = Field(ge=0, description="dollars a search")
    embedding: float = Field(ge=0, description="dollars a text that is embedded, to tell its task or to look it up")


class TrainingConfig(Strict):
    """How the training of adapters is paid back: by the seconds that each adapter's own report tells."""

    dollars_per_hour: float = Field(gt=0, description="of the machine that trains")
    requests: int = Field(ge=1, description="that an adapter's version is to answer in its life; each pays as much")
    days: float = Field(gt=0, description="that it is to serve; what it costs while nobody asks it")


class CachePrices(Strict):
    hit: float = Field(ge=0, description="dollars an answer that comes out of the cache")


class ModelsFile(Strict):
    prices_as_of: date = Field(description="the day on which the prices were last looked at, YYYY-MM-DD")
    models: dict[ModelName, ModelConfig]
    engines: dict[str, EngineConfig]
    retrieval: RetrievalPrices
    cache: CachePrices | None = Field(default=None, description="must be there where a path caches")
    resilience: ResilienceConfig = ResilienceConfig()
    embeddings: dict[ModelName, EmbeddingConfig] = Field(default_factory=dict)
    training: TrainingConfig | None = Field(default=None, description="not set: what training costs is left out")

    @model_validator(mode="after")
    def _a_name_is_one_model(self) -> "ModelsFile":
        both = self.models.keys() & self.embeddings.keys()
        if both:
            raise ValueError(f"'{min(both)}' is a model and an embedding model; give them different names")
        return self

    @model_validator(mode="after")
    def _a_member_is_no_other_engine(self) -> "ModelsFile":
        for name in self.engines:
            group = name.rpartition("/")[0]
            if group in self.engines and self.engines[group].group:
                raise ValueError(f"engine '{name}' is called like a member of group '{group}'; give it another name")
        return self

    def timeouts_of(self, engine: str) -> Timeouts:
        """Its own where they are written, else those for all."""
        return _over(self.engines[engine].timeouts, self.resilience.timeouts)

    def breaker_of(self, engine: str) -> BreakerConfig:
        """Its own where they are written, else those for all."""
        return _over(self.engines[engine].breaker, self.resilience.breaker)


def _over(own: Section | None, default: Section) -> Section:
    """`own`, with what it leaves out taken from `default`."""
    return default if own is None else default.model_copy(update=own.model_dump(exclude_unset=True))
