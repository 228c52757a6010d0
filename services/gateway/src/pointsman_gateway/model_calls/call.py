"""Processes a request for embeddings or reranking up to its receipt, and holds the models of a configuration."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pointsman_servicekit.buffer_budget import BufferedBytesBudget, BufferReservation
from pointsman_servicekit.errors import DeadlineExceeded, NotFound, PermissionDenied, PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.domain import PICODOLLARS, Operation, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import fault_of, outcome_of
from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.model_calls.metrics import CallMetrics

log = logging.getLogger(__name__)

PRICE_UNIT_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Charge:
    """The quantities for which one call of an embedding or reranking model is charged: tokens or searches."""

    tokens: int = 0
    searches: int = 0
    """Cohere's search units: each stands for one query with up to 100 documents."""
    note: str = ""
    """A note that the endpoint has reported an impossible number of tokens; empty if it has not."""


@dataclass(frozen=True, slots=True)
class Price:
    usd_per_million_tokens: float = 0.0
    usd_per_search: float = 0.0

    def picodollars(self, charge: Charge) -> int:
        of_tokens = charge.tokens * self.usd_per_million_tokens / PRICE_UNIT_TOKENS
        return round((of_tokens + charge.searches * self.usd_per_search) * PICODOLLARS)


@dataclass(frozen=True, slots=True)
class CallKind:
    """The names that differ between embeddings and reranking in receipts, messages and settings; there is one instance
    of each.
    """

    operation: Operation
    component: str
    """The name of the cost component in receipts, such as "embedding"."""
    noun: str
    """The name of such a model in messages, such as "embedding model"."""
    config_key: str
    """The key in models.yaml under which such models are configured, such as "embeddings"."""
    key_option: str
    """The option of `pointsman keys create` that names the models which a key may use, such as "--embedding"."""
    allows: Callable[[Scope, str], bool]


class ModelRequest(Protocol):
    """A decoded request for embeddings or reranking."""

    @property
    def request(self) -> Request:
        """Returns the general part of the request: its model, caller and deadline."""
        ...

    @property
    def estimate(self) -> Charge: ...


class ModelAnswer(Protocol):
    @property
    def charge(self) -> Charge: ...


RequestT = TypeVar("RequestT", bound=ModelRequest)
AnswerT = TypeVar("AnswerT", bound=ModelAnswer)


@dataclass(frozen=True, slots=True)
class PricedModel(Generic[RequestT, AnswerT]):
    label: str
    """The model's name in the configuration."""
    call: Callable[[RequestT], Awaitable[AnswerT]]
    """Returns the answer. Raises InvalidArgument if the model cannot take the request, NotFound if its endpoint does
    not serve it, and Unavailable if the endpoint fails. Cancelling the call stops the work."""
    price: Price


@dataclass(frozen=True, slots=True)
class Called(Generic[AnswerT]):
    """A model's answer to a request, with its cost in dollars and the response headers for the client."""

    answer: AnswerT
    usd: float
    headers: Mapping[str, str]
    """The response headers with the state of the caller's limits (`x-ratelimit-*`)."""


class ModelCall(Generic[RequestT, AnswerT]):
    """Processes one request for embeddings or reranking: checks the scope of the caller's key, calls the model, and
    makes the receipt.
    """

    def __init__(
        self, kind: CallKind, model: PricedModel[RequestT, AnswerT], inputs: RequestT, metrics: CallMetrics
    ) -> None:
        self.request = inputs.request
        self._kind, self._model, self._inputs, self._metrics = kind, model, inputs, metrics
        self._started = time.perf_counter()
        self._was_admitted = False
        self._charge = Charge()
        """The quantities to charge for; none before the model has answered."""

    @property
    def estimated_tokens(self) -> int:
        return self._inputs.estimate.tokens

    @property
    def estimated_usd(self) -> float:
        return self._usd(self._inputs.estimate)

    @property
    def usd(self) -> float:
        """Returns the cost of the call in dollars; valid after `compute`."""
        return self._usd(self._charge)

    def check_scope(self) -> None:
        """Raises PermissionDenied if the scope of the caller's key does not include the model."""
        label, kind = self._model.label, self._kind
        if not kind.allows(self.request.caller.scope, label):
            raise PermissionDenied(
                f"the key is not for {kind.noun} '{label}' (`pointsman keys create {kind.key_option}`)",
                code="not_in_scope",
                param="model",
            )

    def mark_admitted(self) -> None:
        """Records that the request was admitted. Only then does it count as a request of the caller's key."""
        self._was_admitted = True

    async def compute(self) -> AnswerT:
        """Calls the model and returns its answer.

        Raises DeadlineExceeded ("deadline_exceeded") if the request's time runs out, and the errors of the model's
        endpoint.
        """
        try:
            async with asyncio.timeout_at(self.request.deadline):
                answer = await self._model.call(self._inputs)
        except TimeoutError as error:
            raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
        self._charge = answer.charge
        return answer

    def finish(self, outcome: str, error: PointsmanError | None = None) -> UndecidedReceipt:
        """Returns the receipt of this call (its outcome, duration, tokens and cost), and adds it to the metrics.

        It is an `UndecidedReceipt`, because the caller names the model and no policy chooses a path.

        `outcome` is "ok", "cancelled", or the code of `error`, the error that the caller gets (None if there is none).
        """
        model, kind, note = self._model, self._kind, self._charge.note
        receipt = UndecidedReceipt(
            request_id.get(),
            kind.operation,
            outcome_of(outcome, error),
            fault_of(outcome, error),
            {"total": time.perf_counter() - self._started},
            self.request.caller,
            self._was_admitted,
            model.label,
            Usage(self._charge.tokens),
            {kind.component: model.price.picodollars(self._charge)},
            notes=(note,) if note else (),
        )
        if note:
            log.warning("%s %s: %s", kind.noun, model.label, note)
        self._metrics.ended(receipt)
        return receipt

    def _usd(self, charge: Charge) -> float:
        return self._model.price.picodollars(charge) / PICODOLLARS


class CallableModels(Generic[RequestT, AnswerT]):
    """The embedding models, or the reranking models, of one configuration, by the names that a request's `model`
    may have.
    """

    def __init__(
        self,
        kind: CallKind,
        models: Mapping[str, PricedModel[RequestT, AnswerT]],
        metrics: CallMetrics,
        answer_budget: BufferedBytesBudget,
    ) -> None:
        """Takes the models by the values of a request's `model`, and the memory for endpoints' responses."""
        self._kind = kind
        self._models = models
        self._metrics = metrics
        self._answer_budget = answer_budget

    def names(self, scope: Scope = UNRESTRICTED) -> Sequence[str]:
        return [name for name, model in self._models.items() if self._kind.allows(scope, model.label)]

    def reserve_answer(self) -> BufferReservation:
        """Returns an empty reservation of memory for one response. The caller increases it as the response arrives, and
        releases it when the response is sent.
        """
        return BufferReservation(self._answer_budget)

    def call(self, inputs: RequestT) -> ModelCall[RequestT, AnswerT]:
        """Returns the `ModelCall` that processes a request; raises NotFound if the configuration has no model of
        its name.
        """
        name = inputs.request.model
        model = self._models.get(name)
        if model is None:
            visible = self.names(inputs.request.caller.scope)
            known = ", ".join(visible) or f"none (models.yaml lists them under `{self._kind.config_key}`)"
            raise NotFound(
                f"unknown {self._kind.noun} '{name[:200]}'; known: {known}", code="unknown_model", param="model"
            )
        return ModelCall(self._kind, model, inputs, self._metrics)
