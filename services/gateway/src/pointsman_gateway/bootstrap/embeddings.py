"""From the configuration's embedding models to the small line behind `/v1/embeddings`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.bootstrap.tracing import Around
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import EmbeddingConfig
from pointsman_gateway.embeddings.engine import Endpoint, EngineModel
from pointsman_gateway.embeddings.local import Encoder, LocalModel
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics
from pointsman_gateway.embeddings.stage import Embeddings, Journal, Offer, Tenancy
from pointsman_gateway.engines.http1 import Pool, origin_of
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.metering.gen_ai import OPENAI, POINTSMAN
from pointsman_gateway.pipeline.ports import HttpPoster


@dataclass(frozen=True, slots=True)
class EmbeddingSurroundings:
    """What stays while generations come and go."""

    own: LocalModel
    name: str
    """Of the gateway's own model: its fingerprint."""
    http: HttpPoster
    tenancy: Tenancy
    metrics: EmbeddingMetrics
    journal: Journal
    traced: Around


def embedding_surroundings(
    encoder: Encoder, pool: Pool, tenancy: Tenancy, metrics: EmbeddingMetrics, journal: Journal, traced: Around
) -> EmbeddingSurroundings:
    own, http = LocalModel(encoder), PooledPoster(pool, traced.heads)
    return EmbeddingSurroundings(own, encoder.fingerprint, http, tenancy, metrics, journal, traced)


def build_embeddings(config: Config, around: EmbeddingSurroundings) -> Embeddings:
    """Raises ConfigError."""
    offers: dict[str, Offer] = {}
    for name, model in config.models.embeddings.items():
        if model.local:
            # By its fingerprint too: who keeps vectors wants to say exactly which model made them.
            own = around.traced.embedder(around.own, name, POINTSMAN)
            offers[name] = offers[around.name] = Offer(name, own, model.usd_per_million_tokens)
        else:
            there = EngineModel(_endpoint(name, model), around.http)
            offers[name] = Offer(name, around.traced.embedder(there, name, OPENAI), model.usd_per_million_tokens)
    return Embeddings(offers, around.tenancy, around.metrics, around.journal)


def _endpoint(name: str, model: EmbeddingConfig, environment: Mapping[str, str] = os.environ) -> Endpoint:
    api_key = environment.get(model.api_key_env, "") if model.api_key_env else ""
    if model.api_key_env and not api_key:
        raise ConfigError(
            f"models.yaml: embedding model '{name}' needs the environment variable {model.api_key_env}, "
            "which is not set"
        )
    try:
        origin_of(model.url)
    except ValueError as error:
        raise ConfigError(f"models.yaml: embedding model '{name}': {error}") from error
    return Endpoint(name, model.url.rstrip("/"), model.model or name, api_key)
