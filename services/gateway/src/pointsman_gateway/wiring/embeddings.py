"""From the configuration's embedding models to the small line behind `/v1/embeddings`."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pointsman_servicekit.logs import request_id

from pointsman_gateway.backends.http1 import Connection, ConnectionFailed, Origin, Patience, Pool, origin_of
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import EmbeddingConfig
from pointsman_gateway.embeddings.engine import Endpoint, EngineModel, Http, Reply, Unreachable
from pointsman_gateway.embeddings.local import Encoder, LocalModel
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics
from pointsman_gateway.embeddings.stage import Embeddings, Journal, Offer, Tenancy
from pointsman_gateway.metering.gen_ai import OPENAI, OURS
from pointsman_gateway.wiring.tracing import Around

CONNECT = 2.0
"""Seconds that an engine gets to take a connection."""


@dataclass(frozen=True, slots=True)
class EmbeddingSurroundings:
    """What stays while generations come and go."""

    own: LocalModel
    name: str
    """Of the gateway's own model: its fingerprint."""
    http: Http
    tenancy: Tenancy
    metrics: EmbeddingMetrics
    journal: Journal
    traced: Around


def embedding_surroundings(
    encoder: Encoder, pool: Pool, tenancy: Tenancy, metrics: EmbeddingMetrics, journal: Journal, traced: Around
) -> EmbeddingSurroundings:
    own, http = LocalModel(encoder), PooledHttp(pool, traced.heads)
    return EmbeddingSurroundings(own, encoder.fingerprint, http, tenancy, metrics, journal, traced)


def build_embeddings(config: Config, around: EmbeddingSurroundings) -> Embeddings:
    """Raises ConfigError."""
    offers: dict[str, Offer] = {}
    for name, model in config.models.embeddings.items():
        if model.local:
            # By its fingerprint too: who keeps vectors wants to say exactly which model made them.
            own = around.traced.embedder(around.own, name, OURS)
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


class PooledHttp:
    """Implements `Http` on the engines' pool of connections."""

    def __init__(self, pool: Pool, heads: Callable[[], str]) -> None:
        """`heads` are more lines of each request's head."""
        self._pool = pool
        self._heads = heads
        self._clock = asyncio.get_running_loop().time

    async def post(self, url: str, api_key: str, body: bytes, deadline: float, longest: int) -> Reply:
        try:
            return await self._post(url, api_key, body, deadline, longest)
        except ConnectionFailed as error:
            raise Unreachable(str(error)) from error

    async def _post(self, url: str, api_key: str, body: bytes, deadline: float, longest: int) -> Reply:
        origin = origin_of(url)
        patience = Patience(CONNECT, deadline - self._clock(), deadline)
        connection = await self._pool.post(origin, _head(origin, api_key, self._heads()), body, patience)
        try:
            reply = await _read(connection, longest)
        except BaseException:
            connection.close()
            raise
        self._pool.release(origin, connection)
        return reply


def _head(origin: Origin, api_key: str, more: str) -> bytes:
    key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
    return (
        f"POST {origin.path} HTTP/1.1\r\n{origin.head}content-type: application/json\r\n"
        f"accept-encoding: identity\r\nx-request-id: {request_id.get()}\r\n{more}{key}"
    ).encode("latin-1")


async def _read(connection: Connection, longest: int) -> Reply:
    pieces, size = [], 0
    while piece := await connection.read():
        pieces.append(piece)
        size += len(piece)
        if size > longest:
            raise ConnectionFailed(f"its answer is over {longest} bytes")
    wait = connection.retry_after
    return Reply(connection.status, tuple(pieces), float(wait) if wait.isdecimal() else None)
