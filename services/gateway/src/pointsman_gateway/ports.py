"""The protocols (interfaces) of the objects through which a request passes; several stages and servers share them.

A `Tenancy` identifies the caller and reserves quota of the caller's limits. A `Classifier` finds the request's task. A
`PromptBuilder` builds the prompt for the path (model, adapter and prompt) that was chosen. A `Backend` returns an
answer, whose `AnswerSource` pushes chunks to a `ChunkSink`. An `AnswerSink` receives the answer for the client, and a
`RequestLog` the receipt.
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
        """Receives one or more chunks of the answer. `last` is True if the answer is known to end with them, so that
        `ended` follows immediately.
        """
        ...

    def ended(self, error: Exception | None) -> None:
        """Receives the end of the answer; `error` is None if the answer is complete."""
        ...


class AnswerSource(Protocol):
    """Interface to an answer that has begun to arrive from an engine or the cache; it pushes its chunks to one sink."""

    def attach(self, sink: ChunkSink) -> None:
        """Sets the sink that gets all chunks and the end of the answer; to be called once.

        Chunks that have already arrived are pushed to the sink before the call returns.
        """
        ...

    def pause(self) -> None:
        """Stops pushing chunks until `resume` is called. Once buffers are full, the engine has to wait
        (backpressure).
        """
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Releases the answer, and makes the engine stop if the answer is not complete. Later calls do nothing."""
        ...


@value
class AnswerStream:
    """An answer that has begun to arrive: the source of its chunks, and the engine and model, or the cache, from which
    it comes.
    """

    model: str
    """The name by which the engine knows the model that answers: the base model or an adapter version."""
    source: AnswerSource
    cached: str = ""
    """"exact" if the cache had the answer to an equal request, "semantic" if it had the answer to a similar question;
    empty if an engine answers."""
    waited: float = 0.0
    """Seconds for which the request waited until its adapter was loaded."""
    embeddings: int = 0
    """Number of texts that were embedded to look for a similar question in the cache."""
    engine: str = ""
    """The name of the engine that answers; empty for an answer from the cache."""
    default_max_tokens: int | None = None
    """The maximum number of tokens that the gateway set for the answer, because neither the request nor the path sets
    one; None if the gateway set none."""
    accepted: Callable[[], None] | None = None
    """A function to call when the answer is complete and no validator has rejected it; None if there is none to
    call."""


class AnswerSink(Protocol):
    """Interface to the receiver of one answer, which sends the answer to the client; `HttpSink` and others implement
    it.

    The order of calls is `started`, `chunks` (any number of times), `finished`, `closed`. If an error occurs at any
    point, `failed` and then `closed` follow; if the client disconnects, only `closed` follows.
    """

    def started(self, started: Started) -> None:
        """Receives the routing decision and the answer's model; the first chunk follows immediately."""
        ...

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Receives one or more chunks of the answer. `last` is True if the answer is known to end with them, so that
        `finished` follows immediately.
        """
        ...

    def finished(self, finished: Finished) -> None:
        """Receives the end of a complete answer and its receipt, which has already been added to the request log."""
        ...

    def failed(self, error: PointsmanError) -> None:
        """Receives the error that ended the request. The error's `receipt` is set unless the receipt could not be
        written.

        An `AnswerNotRead` (`pipeline/sinks.py`) is not sent to the client, because the client does not read the answer.
        """
        ...

    def closed(self) -> None:
        """Is called last, after the request has released its slot, reservation and engine."""
        ...


class Classifier(Protocol):
    async def label(self, request: Request) -> Labels: ...


class PromptBuilder(Protocol):
    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Builds the prompt for the path of the decision.

        Raises Unavailable, or its subclass NothingRelevant, if the decision's next path should answer instead; any
        other PointsmanError ends the request.
        """
        ...


class CallRecord(Protocol):
    """Interface through which a backend reports calls of engines that brought no answer but may cost money.
    `PathAttempt` implements it.
    """

    def record_unanswered(self, engine: str, model: str) -> None:
        """Records a call of an engine that the gateway gave up before it used an answer.

        The engine has received the prompt and may charge for it, but reports no numbers of tokens. `engine` is the
        engine's name, and `model` the engine's name for the model.
        """
        ...


class Backend(Protocol):
    """Interface to the object that answers prompts: by calling engines, or as a wrapper around such an object, for
    example the cache.
    """

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Sends the prompt to an engine, and returns the answer once its first chunk has arrived.

        Calls of engines that are given up before are reported to `record`. Raises Unavailable if the decision's next
        path should answer instead; any other PointsmanError, such as InvalidArgument, ends the request.
        """
        ...


class Reservation(Protocol):
    """Interface to the quota that one request has reserved from its caller's limits: tokens, dollars, one request, and
    one stream.

    A stream is a request in progress.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns HTTP headers that show the state of the caller's limits: OpenAI's `x-ratelimit-*`, and a warning if a
        budget is nearly spent.

        Empty if the caller has no limits.
        """
        ...

    @property
    def has_budget(self) -> bool:
        """Returns whether the caller has a limit in dollars."""
        ...

    def afford_now(self, usd: float | None) -> bool:
        """Reserves `usd` more dollars of the caller's budget without waiting; returns False if the caller of this
        method must await `afford` instead.

        Without a budget in dollars it does nothing and returns True. Raises ResourceExhausted if a budget does not
        suffice, or if there is a budget and the cost is unknown (None).
        """
        ...

    async def afford(self, usd: float | None) -> None:
        """Reserves `usd` more dollars of the caller's budget, and asks Redis if necessary. Does nothing without a
        budget.

        Raises ResourceExhausted if a budget does not suffice, or if there is a budget and the cost is unknown (None).
        Raises Unavailable if in several attempts other requests have taken the free amount first.
        """
        ...

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        """Charges the request's usage and cost to the caller's limits, and frees the rest of the reservation; to be
        called at each request's end.

        Later calls do nothing. If `usd` is None (the cost is unknown), the reserved dollars are charged. `outcome` is
        "ok", "cancelled" or an error's code.
        """
        ...


class Tenancy(Protocol):
    """Interface to the stage that identifies callers and enforces their limits; `RedisTenancy` and `OpenAccess`
    implement it.
    """

    def identify_now(self, credential: str) -> Caller | None:
        """Returns the caller whose API key or token is `credential`, if this process has cached the caller.

        Returns None if it has not; then `identify` must be awaited.
        """
        ...

    async def identify(self, credential: str) -> Caller:
        """Returns the caller whose API key or token is `credential`.

        Raises Unauthenticated if the credential is missing or not valid, PermissionDenied if the configuration grants
        nothing to a valid token, and Unavailable if Redis or the token's issuer cannot be reached, or too many callers
        are looked up at once.
        """
        ...

    def enter_now(self, caller: Caller, tokens: int) -> Reservation | None:
        """Reserves one request, one stream (request in progress) and `tokens` tokens from the caller's limits, without
        waiting.

        Returns None if Redis must be asked first; then `enter` must be awaited. Raises ResourceExhausted if a limit is
        used up.
        """
        ...

    async def enter(self, caller: Caller, tokens: int) -> Reservation:
        """Reserves one request, one stream (request in progress) and `tokens` tokens from the caller's limits, and asks
        Redis if necessary.

        Raises ResourceExhausted if a limit is used up. Raises Unavailable if in several attempts other requests have
        taken the free amount first.
        """
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """Returns the HTTP headers that show the state of the caller's limits, for the response to a rejected
        request.
        """
        ...


class RequestLog(Protocol):
    """Interface to the log of requests. It stores one receipt (outcome, usage and cost) for each request. Its methods
    neither block nor raise.
    """

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Returns whether the log stores the texts of the answers to this request. If True, pass them to `note`."""
        ...

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Stores the receipt of a request for which a path was chosen.

        `answers` are the texts of the answers of all paths that were tried, in the order of the attempts; the client
        got the last one.
        """
        ...

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Stores the receipt of a request without a decision, such as one for embeddings or a rejected one."""
        ...
