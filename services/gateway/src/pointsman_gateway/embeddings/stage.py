"""What is to be embedded, and what came of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pointsman_servicekit.errors import DeadlineExceeded, NotFound, PointsmanError
from pointsman_servicekit.logs import request_id
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain import PICODOLLARS, Caller, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK, fault_of, outcome_of

CHARACTERS_PER_TOKEN = 4
"""A usual figure for English; only for what is reserved before anything is spent."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be embedded, and how."""

    request: Request
    """Who asks, for which model, and until when; its messages are the texts, for admission."""
    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    """Texts as some tokenizer's numbers; either these or `texts`."""
    base64: bool = False
    """Vectors as base64 of little-endian 32-bit floats, instead of as lists of numbers."""
    dimensions: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request as it came, for a model that is elsewhere."""

    @property
    def estimated_tokens(self) -> int:
        """Before anything has counted them."""
        return sum(len(t) // CHARACTERS_PER_TOKEN + 1 for t in self.texts) + sum(len(t) for t in self.tokens)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, in order, with what it took."""

    pieces: tuple[bytes, ...]
    """The body of OpenAI's answer, in JSON and in pieces: whole it would hold up the event loop."""
    tokens: int
    usd: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    """How the caller's limits stand."""


# In seconds: a text takes two milliseconds, 2048 of them take four seconds.
SECONDS = (.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)  # fmt: skip


class GenAi(Protocol):
    """The same, as OpenTelemetry names it."""

    def observe_embedding(self, model: str, outcome: str, seconds: float) -> None: ...

    def observe_embedding_tokens(self, model: str, tokens: int) -> None: ...


class EmbeddingMetrics:
    """Made once; generations of the configuration share it."""

    def __init__(self, registry: CollectorRegistry, gen_ai: GenAi) -> None:
        self._gen_ai = gen_ai
        self._requests = Counter(
            "pointsman_embedding_requests",
            "Embedding requests by how they ended, and by whose fault.",
            ["model", "outcome", "fault"],
            registry=registry,
        )
        self._seconds = Histogram(
            "pointsman_embedding_seconds", "Arrival to end.", ["model"], buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("pointsman_embedding_tokens", "Tokens embedded.", ["model"], registry=registry)
        self._cost = _Dollars()
        registry.register(self._cost)

    def ended(self, receipt: UndecidedReceipt) -> None:
        self._requests.labels(receipt.model, receipt.outcome, receipt.fault).inc()
        self._seconds.labels(receipt.model).observe(receipt.seconds["total"])
        self._tokens.labels(receipt.model).inc(receipt.usage.prompt_tokens)
        self._gen_ai.observe_embedding(receipt.model, receipt.outcome, receipt.seconds["total"])
        if receipt.usage.prompt_tokens:
            self._gen_ai.observe_embedding_tokens(receipt.model, receipt.usage.prompt_tokens)
        self._cost.add(receipt.model, sum(receipt.picodollars.values()))


class _Dollars(Collector):
    """Adds up whole picodollars, so that the sum is that of the receipts to the last digit."""

    def __init__(self) -> None:
        self._picodollars: dict[str, int] = {}

    def add(self, model: str, picodollars: int) -> None:
        self._picodollars[model] = self._picodollars.get(model, 0) + picodollars

    def collect(self) -> list[CounterMetricFamily]:
        family = CounterMetricFamily("pointsman_embedding_cost_usd", "Dollars.", labels=["model"])
        for model, picodollars in self._picodollars.items():
            family.add_metric([model], picodollars / PICODOLLARS)
        return [family]


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


class Journal(Protocol):
    """Keeps receipts."""

    def note_undecided(self, receipt: UndecidedReceipt) -> None: ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A model, and what it costs."""

    label: str
    """As the configuration calls it."""
    embedder: Embedder
    price: float
    """Dollars for a million tokens."""

    def picodollars(self, tokens: int) -> int:
        return round(tokens * self.price * PICODOLLARS / PER)


@dataclass(slots=True)
class _Bill:
    """What one request for embeddings has come to so far."""

    begun: float
    took: int = 0
    """Tokens."""
    counted: bool = False
    outcome: str = CANCELLED
    error: PointsmanError | None = None


class Embeddings:
    """Wanted in, Embedded out; of one generation of the configuration."""

    def __init__(
        self, offers: Mapping[str, Offer], tenancy: Tenancy, metrics: EmbeddingMetrics, journal: Journal
    ) -> None:
        """`offers` by the names that a request's `model` may say."""
        self._offers = offers
        self._tenancy = tenancy
        self._metrics = metrics
        self._journal = journal

    def names(self) -> Sequence[str]:
        return list(self._offers)

    async def embed(self, wanted: Wanted, place: Place) -> Embedded:
        """Raises PointsmanError. However it ends it leaves its receipt; but for a model that is not among `names`."""
        offer = self._offers.get(wanted.request.model)
        if offer is None:
            raise NotFound(
                f"unknown embedding model '{wanted.request.model[:200]}'; known: {', '.join(self._offers) or 'none'}",
                code="unknown_model",
                param="model",
            )
        bill = _Bill(time.perf_counter())
        try:
            async with place(wanted.request):
                embedded = await self._held(offer, wanted, bill)
            bill.outcome = OK
        except PointsmanError as error:
            bill.outcome, bill.error = error.code, error
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            bill.outcome = INTERNAL
            raise
        finally:
            self._leave(offer, wanted.request, bill)
            bill.error = None  # or it and this frame, which is in its traceback, hold each other
        return embedded

    async def _held(self, offer: Offer, wanted: Wanted, bill: _Bill) -> Embedded:
        """Holds what it is likely to take, and settles what it took; nothing, where there is no answer."""
        estimate = wanted.estimated_tokens
        hold = await self._tenancy.enter(wanted.request.caller, estimate)
        bill.counted = True
        outcome = CANCELLED
        try:
            await hold.afford(offer.picodollars(estimate) / PICODOLLARS)
            embedded = await _in_time(offer.embedder, wanted)
            bill.took, outcome = embedded.tokens, OK
        except PointsmanError as error:
            outcome = error.code
            raise
        finally:
            hold.settle(Usage(bill.took), offer.picodollars(bill.took) / PICODOLLARS, outcome)
        return replace(embedded, usd=offer.picodollars(bill.took) / PICODOLLARS, headers=hold.headers)

    def _leave(self, offer: Offer, request: Request, bill: _Bill) -> None:
        receipt = UndecidedReceipt(
            request_id.get(),
            "embeddings",
            outcome_of(bill.outcome),
            fault_of(bill.outcome, bill.error),
            {"total": time.perf_counter() - bill.begun},
            request.caller,
            bill.counted,
            offer.label,
            Usage(bill.took),
            {"embedding": offer.picodollars(bill.took)},
        )
        self._metrics.ended(receipt)
        self._journal.note_undecided(receipt)


async def _in_time(embedder: Embedder, wanted: Wanted) -> Embedded:
    try:
        async with asyncio.timeout_at(wanted.request.deadline):
            return await embedder.embed(wanted)
    except TimeoutError as error:
        raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
