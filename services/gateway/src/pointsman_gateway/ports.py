"""The protocols of the request path that several stages and servers share.

A `Tenancy` identifies the caller and reserves its limits. A `Classifier` finds the request's task, a `PromptBuilder`
builds the prompt for the path that was chosen, and a `Backend` returns an answer, whose `AnswerSource` pushes chunks to
a `ChunkSink`. An `AnswerSink` receives the answer for the client, and a `RequestLog` the receipt.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import (
    Caller,
    Chunks,
    CompletedAnswer,
    Decision,
    Finished,
    Labels,
    Prompt,
    Receipt,
    Request,
    Started,
    UndecidedReceipt,
    Usage,
)
from pointsman_gateway.domain.value import value


class ChunkSink(Protocol):
    """Interface to a receiver of one answer's chunks: `chunks` is called any number of times, and then `ended`."""

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Receives one or more chunks; `last` is set if `ended` is known to follow immediately."""
        ...

    def ended(self, error: Exception | None) -> None:
        """Receives the end of the answer; `error` is None if the answer is complete."""
        ...


class AnswerSource(Protocol):
    """Interface to an answer that has begun to arrive from an engine or the cache; it pushes its chunks to one sink."""

    def attach(self, sink: ChunkSink) -> None:
        """Sets the sink that gets all chunks and the end of the answer; to be called once.

        What has arrived already is pushed to the sink before the call returns.
        """
        ...

    def pause(self) -> None:
        """Stops pushing until `resume`; the engine has to wait once buffers are full (backpressure)."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Stops the engine if the answer is not complete, and ends the use of it. Later calls do nothing."""
        ...


@value
class AnswerStream:
    """An answer that has begun to arrive: the source of its chunks, and which engine and model, or cache, it comes
    from.
    """

    model: str
    """The engine's name of the model that answers: the base model or an adapter version."""
    source: AnswerSource
    cached: str = ""
    """How the cache answered: "exact" or "semantic"; empty if an engine answers."""
    waited: float = 0.0
    """Seconds that the request waited for its adapter to be loaded."""
    embeddings: int = 0
    """The number of texts that were embedded to look for an answer in the cache."""
    engine: str = ""
    """The name of the engine that answers; empty for an answer from the cache."""
    default_max_tokens: int | None = None
    """The limit that the gateway set, since neither the request nor the path did; None if it set none."""
    accepted: Callable[[], None] | None = None
    """Called when the answer is complete, unless a validator rejects the answer; None: nothing to call."""


class AnswerSink(Protocol):
    """Interface to the receiver of one answer, which sends it to the client; `HttpSink` and others implement it.

    The calls are `started`, `chunks` (any number), `finished`, `closed`. An error at any point leads to `failed` and
    then `closed`; a client that has disconnected, to `closed` alone.
    """

    def started(self, started: Started) -> None:
        """Receives the routing decision and the answer's model; the first chunk follows immediately."""
        ...

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Receives one or more chunks; `last` is set if `finished` is known to follow immediately."""
        ...

    def finished(self, finished: Finished) -> None:
        """Receives the end of a complete answer, with the receipt, which is in the request log already."""
        ...

    def failed(self, error: PointsmanError) -> None:
        """Receives the request's error; its `receipt` is set unless the receipt could not be written.

        An `AnswerNotRead` (`pipeline/sinks.py`) is not sent, because the client does not read.
        """
        ...

    def closed(self) -> None:
        """Is called last, after the request has released its slot, reservation and engine."""
        ...


class Classifier(Protocol):
    async def label(self, request: Request) -> Labels: ...


class PromptBuilder(Protocol):
    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Builds the prompt for the decision's path.

        Raises Unavailable, such as NothingRelevant, if the decision's next path should answer instead; any other
        PointsmanError ends the request.
        """
        ...


class CallRecord(Protocol):
    """Interface by which a backend reports calls of engines without an answer, which may cost; `PathAttempt` has it."""

    def record_unanswered(self, engine: str, model: str) -> None:
        """Records a call to an engine that was given up before its answer was used.

        The engine has got the prompt, reports no tokens, and may charge for the prompt. `engine` is the engine's name,
        and `model` its name for the model.
        """
        ...


class Backend(Protocol):
    """Interface to what answers prompts: the engines, or a wrapper around them, such as the cache."""

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Sends the prompt to an engine, and returns the answer once its first chunk has arrived.

        Calls that were given up meanwhile are reported to `record`. Raises Unavailable if the decision's next path
        should answer instead; any other PointsmanError, such as InvalidArgument, ends the request.
        """
        ...


class Reservation(Protocol):
    """Interface to the part of its caller's limits that one request has reserved: tokens, dollars, one request, one
    stream.

    A stream is a request in progress.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the HTTP headers with the state of the caller's limits: OpenAI's `x-ratelimit-*`, and perhaps a
        warning.

        The warning is that a budget is nearly spent. Empty without limits.
        """
        ...

    @property
    def has_budget(self) -> bool:
        """Returns whether the caller has a limit in dollars."""
        ...

    def afford_now(self, usd: float | None) -> bool:
        """Reserves `usd` dollars more of the caller's budget; returns False if the caller must await `afford` instead.

        Without a budget in dollars it does nothing and returns True. Raises ResourceExhausted if a budget does not
        suffice, or if there is one and the cost is unknown (None).
        """
        ...

    async def afford(self, usd: float | None) -> None:
        """Reserves `usd` dollars more of the caller's budget; asks Redis if necessary. Does nothing without a budget.

        Raises ResourceExhausted if a budget does not suffice, or if there is one and the cost is unknown (None). Raises
        Unavailable if in several attempts other requests have taken the free amount first.
        """
        ...

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        """Charges what the request used to the caller's limits, and frees the rest reserved; to be called at each
        request's end.

        Later calls do nothing. If `usd` is None (unknown), the reserved dollars are charged. `outcome` is "ok",
        "cancelled" or an error's code.
        """
        ...


class Tenancy(Protocol):
    """Interface to the stage that identifies callers and enforces their limits; `RedisTenancy` and `OpenAccess` have
    it.
    """

    def identify_now(self, credential: str) -> Caller | None:
        """Returns the caller whose API key or token is `credential`, if a local copy of it is known.

        Otherwise returns None, and `identify` has to be awaited.
        """
        ...

    async def identify(self, credential: str) -> Caller:
        """Returns the caller whose API key or token is `credential`.

        Raises Unauthenticated if the credential is missing or not valid, PermissionDenied if the configuration grants
        nothing to a valid token, Unavailable if Redis or the issuer cannot be reached or too many callers are looked up
        at once.
        """
        ...

    def enter_now(self, caller: Caller, tokens: int) -> Reservation | None:
        """Reserves one request, one stream (request in progress) and `tokens` tokens of the caller's limits.

        Returns None if Redis must be asked first, so that `enter` has to be awaited. Raises ResourceExhausted if a
        limit is used up.
        """
        ...

    async def enter(self, caller: Caller, tokens: int) -> Reservation:
        """Reserves one request, one stream (request in progress) and `tokens` of the caller's limits; asks Redis if
        necessary.

        Raises ResourceExhausted if a limit is used up. Raises Unavailable if in several attempts other requests have
        taken the free amount first.
        """
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """Returns the HTTP headers with the state of the caller's limits, for a request that is rejected."""
        ...


class RequestLog(Protocol):
    """Interface to the log that stores one receipt for each request. Its methods neither block nor raise."""

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Returns whether the log stores the texts of the answers to this request, so that `note` should get them."""
        ...

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Stores the receipt of a request that has a decision.

        `answers` are the texts of the answers that paths gave, in their order; the client got the last one.
        """
        ...

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Stores the receipt of a request without a decision, such as one for embeddings or a rejected one."""
        ...
