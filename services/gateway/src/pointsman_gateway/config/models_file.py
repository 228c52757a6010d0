"""The schema of models.yaml: models with their prices, engines, embedding models, rerankers and retries."""

from collections.abc import Mapping
from datetime import date
from itertools import combinations
from typing import Annotated, Any, Literal, TypeVar

from pointsman_embedding import EncoderConfig
from pointsman_servicekit.prices import PricedModel, prices_as_of
from pydantic import BeforeValidator, Field, model_validator

from pointsman_gateway.config.engine_config import (
    UPSTREAM_PATTERN,
    URL_PARTS,
    BreakerConfig,
    EngineConfig,
    ProviderName,
    Timeouts,
    UrlPart,
    name_providers,
)
from pointsman_gateway.config.field_types import Dollars, Strict
from pointsman_gateway.config.price_changes import PriceChange, check_price_changes, check_tiers
from pointsman_gateway.config.providers import (
    LITELLM,
    Provider,
    find_price,
    preset_of,
    provider_at,
)
from pointsman_gateway.config.token_prices import HOW_TO_WRITE_PRICES, Prices
from pointsman_gateway.domain import Overflow

ModelName = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
"""Printable ASCII without spaces, as HTTP headers require."""

Section = TypeVar("Section", bound=Strict)

_HOW_TO_WRITE = {
    "context_window": "write the tokens of prompt and answer together",
    "usd_per_million_tokens": HOW_TO_WRITE_PRICES,
}
"""The keys of a model that the price list can supply, with the advice if it does not."""


def _none_if_unknown(written: object) -> object:
    if written == "unknown":
        return None
    if not isinstance(written, Mapping | Prices):
        raise ValueError(HOW_TO_WRITE_PRICES)
    return written


def _allow_unknown(schema: dict[str, Any]) -> None:
    """Changes the JSON Schema of a price: an object or "unknown" is allowed, and null is not."""
    schema["anyOf"] = [of for of in schema["anyOf"] if of.get("type") != "null"] + [{"const": "unknown"}]


class ModelConfig(Strict):
    upstream: str = Field(
        default="", pattern=UPSTREAM_PATTERN, description="the engines' name for it; empty: the same name"
    )
    tuned_from: str = Field(
        default="",
        pattern=UPSTREAM_PATTERN,
        description="the model from which this model was fully fine-tuned; its paths then have the kind `tuned`",
    )
    fallback: tuple[ModelName, ...] = Field(
        default=(),
        description="models that answer a request for this model if it fails before the first token, in this order",
    )
    input: tuple[Literal["text", "image", "audio", "video", "file", "url"], ...] = Field(
        default=("text",), description="what it takes; url: it may be sent media by URL, which the engine then fetches"
    )
    context_window: int = Field(
        default=0, ge=1, description="tokens, prompt and answer together; unset: of the price list"
    )
    usd_per_million_tokens: Annotated[Prices | None, BeforeValidator(_none_if_unknown)] = Field(
        default=None,
        description="or `unknown`: costs in dollars are then null, and no budget in dollars may pay for it; unset: of "
        "the price list (prices.yaml), which has the usual models of the providers",
        json_schema_extra=_allow_unknown,
    )
    """The model's prices, in dollars per million tokens; None if they are unknown."""
    usd_per_image: Dollars | None = Field(
        default=None,
        description="dollars for each image in a request, if the provider charges them in addition to tokens; unset: "
        "the price list's, or 0. Most providers count images as tokens of the prompt",
    )
    usd_per_request: Dollars | None = Field(
        default=None, description="dollars for each answer that has begun, in addition to its tokens; unset: 0"
    )
    usd_per_tool_request: Dollars | None = Field(
        default=None,
        description="dollars for each request to a tool that the provider runs and bills apart, such as its web "
        "search; an answer with such requests has an unknown cost without it",
    )
    service_tiers: dict[str, Prices] = Field(
        default_factory=dict,
        description="prices of the provider's other service tiers, such as flex and priority; an answer of a tier "
        "without prices has an unknown cost. Unset: of the price list, if `usd_per_million_tokens` is too",
    )
    price_changes: tuple[PriceChange, ...] = Field(
        default=(), description="prices that replace the others on a day, the earliest first"
    )

    def priced_on(self, day: date) -> "ModelConfig":
        """Returns a copy of the model with the prices that hold on `day` (UTC), after the price changes until then."""
        due: dict[str, Any] = {}
        for change in self.price_changes:
            if change.starting <= day:
                due |= change.replaced
        return self.model_copy(update=due) if due else self

    @model_validator(mode="after")
    def _price_changes_fit(self) -> "ModelConfig":
        for tiers in (self.service_tiers, *(change.service_tiers for change in self.price_changes)):
            check_tiers(tiers)
        check_price_changes(self.price_changes, [*self.service_tiers])
        return self

    @model_validator(mode="after")
    def _prices_are_consistent(self) -> "ModelConfig":
        standard = self.usd_per_million_tokens
        if self.service_tiers and standard is None and "usd_per_million_tokens" in self.model_fields_set:
            raise ValueError("service_tiers have prices, and the standard prices are unknown: write them")
        later = [
            prices
            for change in self.price_changes
            for prices in (change.usd_per_million_tokens, *change.service_tiers.values())
        ]
        for prices in (*([standard] if standard else []), *self.service_tiers.values(), *later):
            for longer in prices.long_prompts:
                if 0 < self.context_window <= longer.above:
                    raise ValueError(
                        f"no prompt has more than {longer.above} tokens, since the context window has "
                        f"{self.context_window}: remove these long_prompts"
                    )
        return self


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
    """The timeouts, retries and breakers for engines that fail or are slow."""

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


class EndpointConfig(Strict):
    """An embedding model or a reranker, which is called once for a request, and the URL at which it is called."""

    url: str = Field(default="", description="unset: that of the provider; with or without the API's path")
    api_key_env: str = Field(default="", description="the environment variable with the API key")
    provider: ProviderName = Field(
        default=None, description="unset: by the URL's host", json_schema_extra=name_providers
    )
    resource: UrlPart | None = Field(default=None, description="of Azure: the resource's name")
    api_version: UrlPart | None = Field(default=None, description="of azure-deployments")
    upstream: str = Field(default="", description="the endpoint's name for it; empty: the same name")

    @property
    def is_own(self) -> bool:
        """Returns whether Pointsman runs the model itself, so that no URL is called."""
        raise NotImplementedError

    def _check_endpoint(self, noun: str, key: str) -> None:
        """Raises ValueError unless the model has either an endpoint or the key `key`, which names a model of
        Pointsman's own.
        """
        if self.provider and self.preset.dialect == LITELLM:
            raise ValueError(f"LiteLLM's providers have no {noun}s here; write the url of one")
        if self.is_own == bool(self.url or self.provider):
            raise ValueError(f"{_with_article(noun)} is either {key}: true or has a url (http://HOST:PORT)")
        if self.is_own and (self.api_key_env or self.upstream):
            raise ValueError(f"{_with_article(noun)} with {key}: true has no api_key_env and no upstream")
        if not self.is_own and not self.base_url:
            raise ValueError(f"provider '{self.provider}' has no URL of its own; write a url (http://HOST:PORT)")

    @property
    def preset(self) -> Provider:
        return preset_of(self.provider or provider_at(self.url))

    @property
    def url_parts(self) -> dict[str, str]:
        """Returns what replaces the placeholders in the URL of the model's provider: name -> value."""
        return {name: value for name in URL_PARTS if (value := getattr(self, name, None)) is not None}

    @property
    def base_url(self) -> str:
        """Returns the URL of the model's provider without the path of a request, such as "https://api.openai.com"."""
        return self.preset.resolve_url(self.url, self.url_parts)


class EmbeddingConfig(EndpointConfig):
    """A model of `/v1/embeddings`: the gateway's own, or one of an OpenAI-compatible endpoint."""

    usd_per_million_tokens: Dollars
    local: bool = False
    overflow: Overflow = Field(
        default="error", description="of the local model: what is done with texts that are too long for it"
    )

    @model_validator(mode="after")
    def _is_local_or_remote(self) -> "EmbeddingConfig":
        self._check_endpoint("embedding model", "local")
        if not self.local and self.overflow != "error":
            raise ValueError("overflow is for local: true alone")
        return self

    @property
    def is_own(self) -> bool:
        return self.local


class RerankerConfig(EndpointConfig):
    """A model of `/v1/rerank`: the retriever's reranker, or one of an endpoint such as vLLM, Cohere or Jina."""

    retriever: bool = Field(default=False, description="whether it is the one that the retriever is set up with")
    usd_per_million_tokens: Dollars = Field(default=0.0, description="of queries and documents together")
    usd_per_search: Dollars = Field(default=0.0, description="of one query with up to 100 documents, as Cohere bills")

    @model_validator(mode="after")
    def _is_the_retrievers_or_remote(self) -> "RerankerConfig":
        self._check_endpoint("reranker", "retriever")
        return self

    @property
    def is_own(self) -> bool:
        return self.retriever


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class RetrievalPrices(Strict):
    """Prices of retrieval. There are no defaults, because an unknown price must not count as 0."""

    usd_per_search: Dollars
    usd_per_embedding: Dollars = Field(description="of one text, to classify it or to search for it")


class TrainingConfig(Strict):
    """How the training of an adapter is paid for by the requests that the adapter answers.

    Its training time is taken from the report of the training.
    """

    usd_per_hour: Dollars = Field(gt=0, description="of the machine that trains")
    expected_requests: int = Field(ge=1, description="in the life of a version; each pays an equal part")
    expected_days: float = Field(gt=0, description="that a version serves; sets what it costs while it is idle")


class CachePrices(Strict):
    usd_per_hit: Dollars = Field(description="for an answer that comes from the cache")


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
    embeddings: dict[ModelName, EmbeddingConfig] = Field(default_factory=dict, description="models of /v1/embeddings")
    rerankers: dict[ModelName, RerankerConfig] = Field(default_factory=dict, description="models of /v1/rerank")
    embedding: EncoderConfig | None = Field(
        default=None,
        description="the model by which the classifier and the retriever compare texts; unset: MiniLM. A change takes "
        "effect at the next start",
    )
    training: TrainingConfig | None = Field(default=None, description="unset: costs do not include training")
    aliases: dict[ModelName, ModelName] = Field(
        default_factory=dict, description="other names for anything that a request's model may say: {gpt-4o-mini: auto}"
    )
    catch_all: ModelName | None = Field(
        default=None, description="what a request gets whose model is unknown; unset: an error"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ModelsFile":
        kinds: dict[str, Mapping[str, object]] = {"a model": self.models, "an embedding model": self.embeddings}
        kinds["a reranker"] = self.rerankers
        for (kind, names), (other, others) in combinations(kinds.items(), 2):
            if both := names.keys() & others.keys():
                raise ValueError(f"'{min(both)}' is {kind} and {other}; give them different names")
        return self

    @property
    def called_once(self) -> Mapping[str, EndpointConfig]:
        """Returns the configuration of each embedding model and reranker, by name; these answer no conversations."""
        return {**self.embeddings, **self.rerankers}

    @model_validator(mode="after")
    def _engines_have_upstream_names(self) -> "ModelsFile":
        for name, engine in self.engines.items():
            model = self.models.get(engine.model)
            if model and model.upstream and not engine.upstream:
                self.engines[name] = engine.model_copy(update={"upstream": model.upstream})
        return self

    @model_validator(mode="after")
    def _unset_values_are_listed(self) -> "ModelsFile":
        """Fills context windows and prices that are not set from the built-in price list.

        The list's date becomes `prices_as_of` if nothing else has a price. Raises ValueError if the list lacks a model,
        if the entries for its providers differ, or if there are other prices and `prices_as_of` is missing.
        """
        own_prices = self._is_anything_priced()
        for name, model in self.models.items():
            unset = [key for key in _HOW_TO_WRITE if key not in model.model_fields_set]
            if unset:
                found = self._find_price(name, unset[-1])
                update: dict[str, Any] = {"context_window": found.context_window} if "context_window" in unset else {}
                if "usd_per_million_tokens" in unset:
                    update |= _listed_prices(found, model)
                self.models[name] = model.model_copy(update=update)
        if self.prices_as_of is None and self._is_anything_priced():
            if own_prices:
                raise ValueError("'prices_as_of' is missing: the day on which the prices were last checked, YYYY-MM-DD")
            object.__setattr__(self, "prices_as_of", prices_as_of())  # the file is only now complete
        return self

    def _find_price(self, name: str, unset: str) -> PricedModel:
        engines = [engine for engine in self.engines.values() if engine.model == name]
        listed = {find_price(engine.preset_name, (engine.upstream_name, name)) for engine in engines}
        found = listed.pop() if len(listed) == 1 else None
        if found is None:
            why = "the price list does not have it" if None in listed or not listed else "its providers' prices differ"
            raise ValueError(f"'models.{name}.{unset}' is missing, and {why}; {_HOW_TO_WRITE[unset]}")
        return found

    def _is_anything_priced(self) -> bool:
        hourly = any(engine.usd_per_hour for engine in self.engines.values())
        answers = any(
            m.usd_per_million_tokens is not None or m.usd_per_image or m.usd_per_request or m.usd_per_tool_request
            for m in self.models.values()
        )
        reranks = any(model.usd_per_million_tokens or model.usd_per_search for model in self.rerankers.values())
        return bool(hourly or answers or self.embeddings or reranks or self.retrieval or self.cache or self.training)

    @model_validator(mode="after")
    def _no_engine_is_named_like_a_member(self) -> "ModelsFile":
        for name in self.engines:
            group = name.rpartition("/")[0]
            if group in self.engines and self.engines[group].group:
                raise ValueError(f"engine '{name}' is called like a member of group '{group}'; give it another name")
        return self

    def timeouts_of(self, engine: str) -> Timeouts:
        """Returns the timeouts of the engine with this name; unset ones are taken from `resilience`."""
        return _merged(self.engines[engine].timeouts, self.resilience.timeouts)

    def breaker_of(self, engine: str) -> BreakerConfig:
        """Returns the breaker settings of the engine with this name; unset ones are taken from `resilience`."""
        return _merged(self.engines[engine].breaker, self.resilience.breaker)


def _listed_prices(found: PricedModel, model: ModelConfig) -> dict[str, Any]:
    """Returns a model's prices in the price list: name of the field of `ModelConfig` -> price.

    `usd_per_image` and `service_tiers` are left out if the configuration sets them.
    """
    further = dict(found.further)
    listed = {
        "usd_per_image": found.image or None,
        "service_tiers": {name: Prices(**prices) for name, prices in further.pop("service_tiers", {}).items()},
    }
    standard = Prices(prompt=found.prompt, cached=found.cached, completion=found.completion, **further)
    unset = {key: value for key, value in listed.items() if key not in model.model_fields_set}
    return {"usd_per_million_tokens": standard, **unset}


def _merged(own: Section | None, default: Section) -> Section:
    return default if own is None else default.model_copy(update=own.model_dump(exclude_unset=True))
