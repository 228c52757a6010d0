"""The stage: a place in the house, a hold on the caller's limits, the model, and the bill, however it ends."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_servicekit.errors import DeadlineExceeded, NotFound, PointsmanError

from pointsman_gateway.domain import Caller, Request, Usage
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics
from pointsman_gateway.embeddings.wanted import Embedded, Wanted

PER = 1_000_000

Place = Callable[[Request], AbstractAsyncContextManager[None]]
"""Admission's: a block in which a request is in the house."""


class Embedder(Protocol):
    """One model."""

    async def embed(self, wanted: Wanted) -> Embedded:
        """Raises PointsmanError. Cancelling it stops the work."""
        ...


class Hold(Protocol):
    """What one request holds of its caller's limits."""

    async def afford(self, usd: float) -> None:
        """Raises ResourceExhausted."""
        ...

    def settle(self, usage: Usage, usd: float, outcome: str) -> None: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """How the limits stand now."""
        ...


class Tenancy(Protocol):
    """Knows the callers' limits."""

    async def enter(self, caller: Caller, tokens: int) -> Hold:
        """Raises ResourceExhausted."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A model, and what it costs."""

    label: str
    """As the configuration calls it."""
    embedder: Embedder
    price: float
    """Dollars for a million tokens."""

    def usd(self, tokens: int) -> float:
        return tokens * self.price / PER


class Embeddings:
    """Wanted in, Embedded out; of one generation of the configuration."""

    def __init__(self, offers: Mapping[str, Offer], tenancy: Tenancy, metrics: EmbeddingMetrics) -> None:
        """`offers` by the names that a request's `model` may say."""
        self._offers = offers
        self._tenancy = tenancy
        self._metrics = metrics

    def names(self) -> Sequence[str]:
        return list(self._offers)

    async def embed(self, wanted: Wanted, place: Place) -> Embedded:
        """Raises PointsmanError; what it took is counted however it ends."""
        offer = self._offers.get(wanted.request.model)
        if offer is None:
            raise NotFound(
                f"unknown embedding model '{wanted.request.model[:200]}'; known: {', '.join(self._offers) or 'none'}",
                code="unknown_model",
                param="model",
            )
        begun, outcome = time.perf_counter(), "cancelled"
        try:
            async with place(wanted.request):
                embedded = await self._held(offer, wanted)
            outcome = "ok"
        except PointsmanError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            self._metrics.ended(offer.label, outcome, time.perf_counter() - begun)
        self._metrics.used(offer.label, embedded.tokens, embedded.usd)
        return embedded

    async def _held(self, offer: Offer, wanted: Wanted) -> Embedded:
        """Holds what it is likely to take, and settles what it took; nothing, where there is no answer."""
        estimate = wanted.estimated_tokens
        hold = await self._tenancy.enter(wanted.request.caller, estimate)
        took, usd, outcome = Usage(), 0.0, "cancelled"
        try:
            await hold.afford(offer.usd(estimate))
            embedded = await _in_time(offer.embedder, wanted)
            took, usd, outcome = Usage(embedded.tokens), offer.usd(embedded.tokens), "ok"
        except PointsmanError as error:
            outcome = error.code
            raise
        finally:
            hold.settle(took, usd, outcome)
        return replace(embedded, usd=usd, headers=hold.headers)


async def _in_time(embedder: Embedder, wanted: Wanted) -> Embedded:
    try:
        async with asyncio.timeout_at(wanted.request.deadline):
            return await embedder.embed(wanted)
    except TimeoutError as error:
        raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
