"""The embedding models of a configuration, and the processing of one request for embeddings up to its receipt."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pointsman_servicekit.buffer_budget import BufferedBytesBudget, BufferReservation
from pointsman_servicekit.errors import DeadlineExceeded, NotFound, PermissionDenied, PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.token_ids import TokenIds
from pointsman_gateway.domain import PICODOLLARS, Overflow, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import fault_of, outcome_of
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN
from pointsman_gateway.embeddings.metrics import EmbeddingMetrics

log = logging.getLogger(__name__)

PRICE_UNIT_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A client's request for embeddings: texts or token ids, and the form of the vectors."""

    request: Request
    """The model, caller and deadline; its only message is the first text, or empty for token ids."""
    texts: tuple[str, ...] = ()
    token_ids: TokenIds | None = None
    """The texts as token ids, instead of `texts`; None if the client sent texts."""
    base64: bool = False
    """Whether vectors are returned as base64 of little-endian 32-bit floats; otherwise they are lists of numbers."""
    dimensions: int | None = None
    """The requested length of the vectors; None: that of the model."""
    overflow: Overflow | None = None
    """What is done with texts that are too long; None: what the model's configuration says."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The body for a remote model, in which `model` will be replaced."""
    reserve: Callable[[int], None] | None = None
    """Reserves memory for so many further bytes of a remote model's response; raises Unavailable if there is none."""

    @property
    def estimated_tokens(self) -> int:
        return sum(len(t) // CHARACTERS_PER_TOKEN + 1 for t in self.texts) + sum(self._id_counts)

    @property
    def max_tokens(self) -> int:
        """Returns the largest possible number of tokens, without special ones: no tokenizer makes more than one token
        of each UTF-8 byte.
        """
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
    """The response to a request for embeddings, as JSON in OpenAI's format, and its cost."""

    pieces: tuple[bytes, ...]
    """The body in pieces, because writing it at once would block the event loop."""
    tokens: int
    """The tokens to charge."""
    usd: float = 0.0
    """The cost in dollars."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The state of the caller's limits, as `x-ratelimit-*` headers."""
    note: str = ""
    """Says that the endpoint reported an impossible number of tokens; otherwise empty."""


class Embedder(Protocol):
    """Interface to an embedding model; `LocalEmbedder` and `RemoteEmbedder` implement it."""

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Returns the response with the vectors of the texts.

        Raises InvalidArgument if the model cannot take the request, NotFound if its endpoint does not serve it, and
        Unavailable if the endpoint fails. Cancelling the call stops the work.
        """
        ...


@dataclass(frozen=True, slots=True)
class PricedModel:
    """An embedding model and its price."""

    label: str
    """The model's name in the configuration."""
    embedder: Embedder
    usd_per_million_tokens: float

    def picodollars(self, tokens: int) -> int:
        return round(tokens * self.usd_per_million_tokens * PICODOLLARS / PRICE_UNIT_TOKENS)


class EmbeddingRun:
    """Processes one request for embeddings: checks the key's scope, computes the vectors, and makes the receipt."""

    def __init__(self, model: PricedModel, inputs: EmbeddingRequest, metrics: EmbeddingMetrics) -> None:
        self.request = inputs.request
        self.estimated_tokens = inputs.estimated_tokens
        self._model, self._inputs, self._metrics = model, inputs, metrics
        self._started = time.perf_counter()
        self._was_admitted = False
        self._tokens = 0
        """The tokens to charge; 0 unless the vectors were computed."""
        self._note = ""

    @property
    def estimated_usd(self) -> float:
        return self._model.picodollars(self.estimated_tokens) / PICODOLLARS

    def check_scope(self) -> None:
        """Raises PermissionDenied if the scope of the caller's key does not include the model."""
        label = self._model.label
        if not self.request.caller.scope.allows_embedding(label):
            raise PermissionDenied(
                f"the key is not for embedding model '{label}' (`pointsman keys create --embedding`)",
                code="not_in_scope",
                param="model",
            )

    def mark_admitted(self) -> None:
        """Records that the request was admitted, so that it counts in the usage of the caller's key."""
        self._was_admitted = True

    async def compute(self) -> EncodedEmbeddings:
        """Returns the response and its cost; raises what `Embedder.embed` raises, or DeadlineExceeded."""
        result = await _before_deadline(self._model.embedder, self._inputs)
        self._tokens, self._note = result.tokens, result.note
        return replace(result, usd=self._model.picodollars(result.tokens) / PICODOLLARS)

    def finish(self, outcome: str, error: PointsmanError | None = None) -> UndecidedReceipt:
        """Makes and returns the receipt, and adds it to the metrics.

        `outcome` is "ok", "cancelled", or the code of `error`, the error that the caller gets (None if there is none).
        """
        model, note = self._model, self._note
        receipt = UndecidedReceipt(
            request_id.get(),
            "embeddings",
            outcome_of(outcome, error),
            fault_of(outcome, error),
            {"total": time.perf_counter() - self._started},
            self.request.caller,
            self._was_admitted,
            model.label,
            Usage(self._tokens),
            {"embedding": model.picodollars(self._tokens)},
            notes=(note,) if note else (),
        )
        if note:
            log.warning("embedding model %s: %s", model.label, note)
        self._metrics.ended(receipt)
        return receipt


class Embeddings:
    """The embedding models of one configuration, by the names that a request's `model` may have."""

    def __init__(
        self, models: Mapping[str, PricedModel], metrics: EmbeddingMetrics, answer_budget: BufferedBytesBudget
    ) -> None:
        """Takes the models by the values of a request's `model`, and the memory for endpoints' responses."""
        self._models = models
        self._metrics = metrics
        self._answer_budget = answer_budget

    def names(self, scope: Scope = UNRESTRICTED) -> Sequence[str]:
        return [name for name, model in self._models.items() if scope.allows_embedding(model.label)]

    def reserve_answer(self) -> BufferReservation:
        """Returns an empty reservation of memory for one response. The caller increases it as the response arrives, and
        releases it when the response is sent.
        """
        return BufferReservation(self._answer_budget)

    def run(self, inputs: EmbeddingRequest) -> EmbeddingRun:
        """Returns the run of a request, for `Pipeline.embed`; raises NotFound if its model is unknown."""
        name = inputs.request.model
        model = self._models.get(name)
        if model is None:
            visible = self.names(inputs.request.caller.scope)
            known = ", ".join(visible) or "none (models.yaml lists them under `embeddings`)"
            raise NotFound(
                f"unknown embedding model '{name[:200]}'; known: {known}", code="unknown_model", param="model"
            )
        return EmbeddingRun(model, inputs, self._metrics)


async def _before_deadline(embedder: Embedder, inputs: EmbeddingRequest) -> EncodedEmbeddings:
    try:
        async with asyncio.timeout_at(inputs.request.deadline):
            return await embedder.embed(inputs)
    except TimeoutError as error:
        raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
