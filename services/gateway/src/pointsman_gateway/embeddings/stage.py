"""The embeddings endpoint's stage: the models of a configuration, and one request's computation and receipt."""

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
    """A client's request for embeddings: its texts, or their token ids, and the form of the vectors."""

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
    """A remark on an impossible usage that the engine reported; empty if there is none."""


class Embedder(Protocol):
    """A model that computes embeddings."""

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Returns the texts' vectors, encoded for the response; raises InvalidArgument, NotFound or Unavailable.
        Cancelling the call stops the computation or the request to the provider.
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


class EmbeddingRun:
    """One request for embeddings: checks its key's scope, computes the vectors, and makes the receipt."""

    def __init__(self, model: PricedModel, inputs: EmbeddingRequest, metrics: EmbeddingMetrics) -> None:
        self.request = inputs.request
        self.estimated_tokens = inputs.estimated_tokens
        self._model, self._inputs, self._metrics = model, inputs, metrics
        self._started = time.perf_counter()
        self._was_admitted = False
        self._tokens = 0
        """Tokens of the result: nothing is charged without one."""
        self._note = ""

    @property
    def estimated_usd(self) -> float:
        return self._model.picodollars(self.estimated_tokens) / PICODOLLARS

    def check_scope(self) -> None:
        """Raises PermissionDenied if the caller may not use the model."""
        label = self._model.label
        if not self.request.caller.scope.allows_embedding(label):
            raise PermissionDenied(
                f"the key is not for embedding model '{label}' (`pointsman keys create --embedding`)",
                code="not_in_scope",
                param="model",
            )

    def mark_admitted(self) -> None:
        """Records that the request has a slot, and a reservation of its caller's limits."""
        self._was_admitted = True

    async def compute(self) -> EncodedEmbeddings:
        """Returns the vectors and their cost; raises the embedder's errors, or DeadlineExceeded."""
        result = await _before_deadline(self._model.embedder, self._inputs)
        self._tokens, self._note = result.tokens, result.note
        return replace(result, usd=self._model.picodollars(result.tokens) / PICODOLLARS)

    def finish(self, outcome: str, error: PointsmanError | None = None) -> UndecidedReceipt:
        """Makes the receipt, counts it and returns it.

        `outcome` is "ok", "cancelled" or the code of `error`, which is what the caller gets; None without one.
        """
        model, note = self._model, self._note
        receipt = UndecidedReceipt(
            request_id.get(),
            "embeddings",
            outcome_of(outcome),
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
        """Takes `models` by the value of a request's `model`; `answer_budget` limits bytes of endpoints' responses."""
        self._models = models
        self._metrics = metrics
        self._answer_budget = answer_budget

    def names(self, scope: Scope = UNRESTRICTED) -> Sequence[str]:
        return [name for name, model in self._models.items() if scope.allows_embedding(model.label)]

    def reserve_answer(self) -> BufferReservation:
        """Returns a reservation for the bytes of one response, to grow while it arrives and release when it is sent."""
        return BufferReservation(self._answer_budget)

    def run(self, inputs: EmbeddingRequest) -> EmbeddingRun:
        """Returns a run that is not started; raises NotFound if the model is unknown."""
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
