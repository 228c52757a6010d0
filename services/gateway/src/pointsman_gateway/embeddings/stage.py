"""The embeddings endpoint's stage: admission, limits, the model, and a receipt, whatever the outcome of the request."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pointsman_servicekit.buffer_budget import BufferedBytesBudget, BufferReservation
from pointsman_servicekit.errors import DeadlineExceeded, NotFound, PermissionDenied, PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.token_ids import TokenIds
from pointsman_gateway.domain import PICODOLLARS, Overflow, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK, fault_of, outcome_of
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics
from pointsman_gateway.ports import RequestLog, Tenancy

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
"""A usual figure for English, to estimate the tokens of a request before they are counted."""
PRICE_UNIT_TOKENS = 1_000_000

Admit = Callable[[Request], AbstractAsyncContextManager[None]]
"""Admission control: a block in which a request has a slot."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """The texts to embed, and how their vectors are returned."""

    request: Request
    """The caller, the model and the deadline, for admission; its messages are the texts."""
    texts: tuple[str, ...] = ()
    token_ids: TokenIds | None = None
    """Texts as token ids of some tokenizer; either these or `texts`."""
    base64: bool = False
    """Whether vectors are encoded as base64 of little-endian 32-bit floats instead of as lists of numbers."""
    dimensions: int | None = None
    overflow: Overflow | None = None
    """None: the model's setting."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The client's body, to send to a remote model."""
    reserve: Callable[[int], None] | None = None
    """Reserves memory for so many bytes of a remote model's response; raises Unavailable."""

    @property
    def estimated_tokens(self) -> int:
        return sum(len(t) // CHARACTERS_PER_TOKEN + 1 for t in self.texts) + sum(self._id_counts)

    @property
    def max_tokens(self) -> int:
        """Returns the most tokens that the texts can have: no tokenizer makes more than one of each UTF-8 byte."""
        return sum(len(t.encode()) for t in self.texts) + sum(self._id_counts)

    @property
    def count(self) -> int:
        """Returns the number of texts."""
        return len(self.texts) + len(self._id_counts)

    @property
    def _id_counts(self) -> Sequence[int]:
        return self.token_ids.counts if self.token_ids else ()


@dataclass(frozen=True, slots=True)
class EncodedEmbeddings:
    """The vectors of an embeddings request in input order, encoded as OpenAI's JSON, and their cost."""

    pieces: tuple[bytes, ...]
    """The JSON body of OpenAI's response, in pieces: writing it at once would block the event loop."""
    tokens: int
    usd: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    """The caller's limits, as `x-ratelimit-*`."""
    note: str = ""
    """What the engine reported that cannot be; empty if nothing."""


class Embedder(Protocol):
    """A model that computes embeddings."""

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Returns the texts' vectors, encoded for the response; raises PointsmanError. Cancelling the call stops the
        computation or the request to the provider.
        """
        ...


@dataclass(frozen=True, slots=True)
class PricedModel:
    """An embedding model and its price."""

    label: str
    """The name in the configuration."""
    embedder: Embedder
    usd_per_million_tokens: float

    def picodollars(self, tokens: int) -> int:
        return round(tokens * self.usd_per_million_tokens * PICODOLLARS / PRICE_UNIT_TOKENS)


@dataclass(slots=True)
class _Progress:
    """What has happened to a request so far, for its receipt."""

    started: float
    tokens: int = 0
    was_admitted: bool = False
    note: str = ""
    outcome: str = CANCELLED
    error: PointsmanError | None = None


class Embeddings:
    """The embedding models of one configuration, by the names that a request's `model` may have."""

    def __init__(
        self,
        models: Mapping[str, PricedModel],
        tenancy: Tenancy,
        metrics: EmbeddingMetrics,
        request_log: RequestLog,
        answer_budget: BufferedBytesBudget,
    ) -> None:
        """Takes `models` by the names that a request's `model` may have, and the memory for responses of endpoints."""
        self._answer_budget = answer_budget
        self._models = models
        self._tenancy = tenancy
        self._metrics = metrics
        self._request_log = request_log

    def names(self, scope: Scope = UNRESTRICTED) -> Sequence[str]:
        return [name for name, model in self._models.items() if scope.allows_embedding(model.label)]

    def reserve_answer(self) -> BufferReservation:
        """Returns the memory of one answer, which grows while it arrives; release it when the answer is sent."""
        return BufferReservation(self._answer_budget)

    async def embed(self, inputs: EmbeddingRequest, admit: Admit) -> EncodedEmbeddings:
        """Embeds the texts; writes a receipt whatever happens, unless the model is unknown. Raises PointsmanError."""
        scope = inputs.request.caller.scope
        model = self._models.get(inputs.request.model)
        if model is None:
            known = ", ".join(self.names(scope)) or "none (models.yaml lists them under `embeddings`)"
            raise NotFound(
                f"unknown embedding model '{inputs.request.model[:200]}'; known: {known}",
                code="unknown_model",
                param="model",
            )
        progress = _Progress(time.perf_counter())
        try:
            if not scope.allows_embedding(model.label):
                raise PermissionDenied(
                    f"the key is not for embedding model '{model.label}' (`pointsman keys create --embedding`)",
                    code="not_in_scope",
                    param="model",
                )
            async with admit(inputs.request):
                result = await self._embed_within_limits(model, inputs, progress)
            progress.outcome = OK
        except PointsmanError as error:
            progress.outcome, progress.error = error.code, error
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            progress.outcome = INTERNAL
            raise
        finally:
            self._write_receipt(model, inputs.request, progress)
            progress.error = None  # breaks the reference cycle between the error's traceback and this frame
        return result

    async def _embed_within_limits(
        self, model: PricedModel, inputs: EmbeddingRequest, progress: _Progress
    ) -> EncodedEmbeddings:
        """Reserves estimated tokens and cost, and settles the real ones; nothing is charged without a result."""
        estimate = inputs.estimated_tokens
        reservation = await self._tenancy.enter(inputs.request.caller, estimate)
        progress.was_admitted = True
        outcome = CANCELLED
        try:
            await reservation.afford(model.picodollars(estimate) / PICODOLLARS)
            result = await _before_deadline(model.embedder, inputs)
            progress.tokens, progress.note, outcome = result.tokens, result.note, OK
        except PointsmanError as error:
            outcome = error.code
            raise
        finally:
            usd = model.picodollars(progress.tokens) / PICODOLLARS
            reservation.settle(Usage(progress.tokens), usd, outcome)
        return replace(result, usd=usd, headers=reservation.headers)

    def _write_receipt(self, model: PricedModel, request: Request, progress: _Progress) -> None:
        receipt = UndecidedReceipt(
            request_id.get(),
            "embeddings",
            outcome_of(progress.outcome),
            fault_of(progress.outcome, progress.error),
            {"total": time.perf_counter() - progress.started},
            request.caller,
            progress.was_admitted,
            model.label,
            Usage(progress.tokens),
            {"embedding": model.picodollars(progress.tokens)},
            notes=(progress.note,) if progress.note else (),
        )
        if progress.note:
            log.warning("embedding model %s: %s", model.label, progress.note)
        self._metrics.ended(receipt)
        self._request_log.note_undecided(receipt)


async def _before_deadline(embedder: Embedder, inputs: EmbeddingRequest) -> EncodedEmbeddings:
    try:
        async with asyncio.timeout_at(inputs.request.deadline):
            return await embedder.embed(inputs)
    except TimeoutError as error:
        raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
