"""Builds the embedding models of `/v1/embeddings` and the rerankers of `/v1/rerank`."""

from collections.abc import Awaitable, Callable, Mapping

from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.engine_discovery import check_url
from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.models_file import EndpointConfig
from pointsman_gateway.config.providers import EngineApi, auth_header
from pointsman_gateway.embeddings.models import MAX_HELD_BYTES, RemoteEmbedder
from pointsman_gateway.embeddings.stage import EMBEDDINGS, Embeddings
from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.metering.gen_ai import POINTSMAN
from pointsman_gateway.model_calls.call import AnswerT, CallKind, Price, PricedModel, RequestT
from pointsman_gateway.model_calls.endpoint import ModelEndpoint
from pointsman_gateway.model_calls.metrics import CallMetrics, GenAi
from pointsman_gateway.reranking.remote import RemoteReranker
from pointsman_gateway.reranking.retriever import DocumentScorer, RetrieverReranker
from pointsman_gateway.reranking.stage import RERANKING, Rerankers
from pointsman_gateway.tracing import Instrumentation

RERANK_PATH = "/rerank"


class ModelCallDependencies:
    """The objects that the embedding models and rerankers of all configurations share, such as the HTTP client and the
    metrics.
    """

    def __init__(
        self,
        http: HttpPoster,
        retriever: DocumentScorer,
        tracing: Instrumentation,
        registry: CollectorRegistry,
        gen_ai: GenAi,
    ) -> None:
        self.http, self.retriever, self._tracing = http, retriever, tracing
        self.embedding_metrics = CallMetrics(registry, gen_ai, "embeddings", "pointsman_embedding")
        self.rerank_metrics = CallMetrics(registry, gen_ai, "rerank", "pointsman_rerank")
        self.answer_budget = BufferedBytesBudget(MAX_HELD_BYTES)
        """Limits the bytes of memory for the responses of embedding models and rerankers, of all requests together."""

    def priced(
        self,
        kind: CallKind,
        name: str,
        call: Callable[[RequestT], Awaitable[AnswerT]],
        price: Price,
        provider: str = POINTSMAN,
    ) -> PricedModel[RequestT, AnswerT]:
        return PricedModel(name, self._tracing.model_call(call, kind.operation, name, provider), price)


def build_embeddings(config: Config, loaded: LoadedModels, dependencies: ModelCallDependencies) -> Embeddings:
    """Builds the configured models of `/v1/embeddings`. Clients address a model by its name or alias; the model that
    runs in this process also by its fingerprint.

    Raises ConfigError if a URL is invalid, if an API key is missing, or if an entry has `local: true` although the
    configured embedding model is called at a URL.
    """
    models = {}
    for name, model in config.models.embeddings.items():
        price = Price(model.usd_per_million_tokens)
        if model.local:
            if loaded.endpoint is None:
                raise ConfigError(f"models.yaml: embeddings.{name}: no model is local, since 'embedding' has a url")
            # Also by its fingerprint, for clients that store vectors and must name the exact model.
            embedder = loaded.endpoint.with_overflow(model.overflow)
            models[name] = models[loaded.fingerprint] = dependencies.priced(EMBEDDINGS, name, embedder.embed, price)
        else:
            remote = RemoteEmbedder(to_embedding_endpoint(name, model), dependencies.http)
            provider = model.preset.gen_ai_provider
            models[name] = dependencies.priced(EMBEDDINGS, name, remote.embed, price, provider)
    models |= _aliases(config, models)
    return Embeddings(EMBEDDINGS, models, dependencies.embedding_metrics, dependencies.answer_budget)


def build_rerankers(config: Config, dependencies: ModelCallDependencies) -> Rerankers:
    """Builds the configured models of `/v1/rerank`. Clients use a model's name or its alias.

    Raises ConfigError if a URL is invalid or an API key is missing.
    """
    models = {}
    for name, model in config.models.rerankers.items():
        price = Price(model.usd_per_million_tokens, model.usd_per_search)
        if model.retriever:
            own = RetrieverReranker(dependencies.retriever)
            models[name] = dependencies.priced(RERANKING, name, own.rerank, price)
        else:
            remote = RemoteReranker(to_rerank_endpoint(name, model), dependencies.http)
            provider = model.preset.gen_ai_provider
            models[name] = dependencies.priced(RERANKING, name, remote.rerank, price, provider)
    models |= _aliases(config, models)
    return Rerankers(RERANKING, models, dependencies.rerank_metrics, dependencies.answer_budget)


def check_endpoints(config: Config) -> None:
    """Raises ConfigError if the URL of an embedding model or reranker is invalid, or its API key is missing."""
    for name, model in config.models.embeddings.items():
        if not model.is_own:
            to_embedding_endpoint(name, model)
    for name, reranker in config.models.rerankers.items():
        if not reranker.is_own:
            to_rerank_endpoint(name, reranker)


def to_embedding_endpoint(name: str, model: EndpointConfig) -> ModelEndpoint:
    return _to_endpoint(EMBEDDINGS, name, model, lambda api: api.embeddings_path)


def to_rerank_endpoint(name: str, model: EndpointConfig) -> ModelEndpoint:
    """Returns the URL, API key and format by which the reranker called `name` is called.

    A configured URL that ends with /rerank is used unchanged; the provider's path for reranking is added to any other
    URL. Raises ConfigError if the URL is invalid or the environment lacks the API key.
    """
    return _to_endpoint(
        RERANKING, name, model, lambda api: "" if model.base_url.endswith(RERANK_PATH) else api.rerank_path
    )


def _to_endpoint(
    kind: CallKind, name: str, model: EndpointConfig, path_of: Callable[[EngineApi], str]
) -> ModelEndpoint:
    """Returns the URL, API key and format by which the remote model called `name` is called.

    `path_of` returns, for the provider's API, the path that is added to the configured base URL. Raises ConfigError if
    the URL is invalid or the environment lacks the API key.
    """
    what, upstream = f"{kind.noun} '{name}'", model.upstream or name
    header = auth_header(what, model.preset, model.api_key_env)
    check_url(what, model.base_url)
    api = model.preset.api(upstream, model.url_parts, header)
    return ModelEndpoint(kind.noun, name, model.base_url + path_of(api), upstream, header)


def _aliases(
    config: Config, models: Mapping[str, PricedModel[RequestT, AnswerT]]
) -> dict[str, PricedModel[RequestT, AnswerT]]:
    return {alias: models[name] for alias, name in config.models.aliases.items() if name in models}
