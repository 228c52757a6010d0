"""The protocols of the request path, one for each concept; stages and servers depend on these alone.

Request -> Classifier -> Decision -> PromptBuilder -> Backend -> AnswerSource -> ChunkSink -> AnswerSink
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
    """Receives one answer of one source as it arrives: `chunks`, any number of times, then `ended` once."""

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Receives chunks, at least one; `last` says that the end is known to follow immediately."""
        ...

    def ended(self, error: Exception | None) -> None:
        """Receives the end, once; `error` is None if the answer is complete."""
        ...


class AnswerSource(Protocol):
    """An answer that has begun, which pushes its chunks, including the first, to the attached sink."""

    def attach(self, sink: ChunkSink) -> None:
        """Attaches the sink, once; pushes what has arrived before it returns."""
        ...

    def pause(self) -> None:
        """Stops pushing until `resume`; the engine has to wait once buffers are full (backpressure)."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Releases the engine; before the answer's end this aborts its work. Idempotent."""
        ...


@value
class AnswerStream:
    """An answer whose first chunk has arrived, and how it came about."""

    model: str
    source: AnswerSource
    cached: str = ""
    """"exact" or "semantic" for an answer from the cache; empty if an engine answers."""
    hedged: int = 0
    """The number of other engines that got the same prompt and were slower."""
    waited: float = 0.0
    """Seconds spent waiting for its adapter to be loaded."""
    embeddings: int = 0
    """Texts embedded for the cache lookup."""
    accepted: Callable[[], None] | None = None
    """Called at the answer's end unless a validator rejects it."""


class AnswerSink(Protocol):
    """Writes one answer to its client: `started`, `chunks`..., `finished`, or `failed` at any point; and last `closed`.

    If the client has disconnected, neither `finished` nor `failed` is called.
    """

    def started(self, started: Started) -> None:
        """Receives the decision; the first chunk follows immediately."""
        ...

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Receives chunks, at least one; `last` says that `finished` is known to follow immediately."""
        ...

    def finished(self, finished: Finished) -> None:
        """Receives the receipt, which is written; the answer is complete."""
        ...

    def failed(self, error: PointsmanError) -> None:
        """Receives the request's error, whose receipt is written. An `AnswerNotRead` cannot be sent: the client does
        not read.
        """
        ...

    def closed(self) -> None:
        """Records that the request has released everything; the client may send its next one."""
        ...


class Classifier(Protocol):
    async def label(self, request: Request) -> Labels: ...


class PromptBuilder(Protocol):
    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Builds the prompt for the decision's path; raises PointsmanError (NothingRelevant: use the next path)."""
        ...


class Backend(Protocol):
    """Answers prompts: the engines, the cache in front of them, or a wrapper around either."""

    async def call(self, request: Request, decision: Decision, prompt: Prompt) -> AnswerStream:
        """Sends the prompt, and returns once the answer's first chunk has arrived. Raises PointsmanError."""
        ...


class Reservation(Protocol):
    """The part of its caller's limits that one request has reserved."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns OpenAI's `x-ratelimit-*` headers with the limits now, and a warning if a budget is nearly spent."""
        ...

    @property
    def has_budget(self) -> bool:
        """Returns whether dollars are limited."""
        ...

    def afford_now(self, usd: float | None) -> bool:
        """Reserves `usd` dollars more; returns False if `afford` has to be awaited instead.

        Raises ResourceExhausted, also if the cost is unknown (None) and there is a budget in dollars.
        """
        ...

    async def afford(self, usd: float | None) -> None:
        """Reserves `usd` dollars more; raises ResourceExhausted as `afford_now` does, or Unavailable."""
        ...

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        """Charges what the request used, at its end and whatever its outcome; only the first call counts. `usd` is None
        if the cost is unknown: then what was reserved is charged. `outcome` is "ok", "cancelled" or an error's code.
        """
        ...


class Tenancy(Protocol):
    """Identifies callers and enforces their limits."""

    def identify_now(self, credential: str) -> Caller | None:
        """Returns the caller from a local copy of its key or token; None if `identify` has to be awaited."""
        ...

    async def identify(self, credential: str) -> Caller:
        """Returns the caller of a key or token; raises Unauthenticated, PermissionDenied or Unavailable."""
        ...

    def enter_now(self, caller: Caller, tokens: int) -> Reservation | None:
        """Reserves one request, one stream and `tokens`; None if `enter` has to be awaited. Raises
        ResourceExhausted.
        """
        ...

    async def enter(self, caller: Caller, tokens: int) -> Reservation:
        """Reserves one request, one stream and `tokens`; raises ResourceExhausted or Unavailable."""
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """Returns the headers with the caller's limits now, for an error; see `Reservation.headers`."""
        ...


class RequestLog(Protocol):
    """Records the receipt of every request. Its methods neither block nor raise."""

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Returns whether `note` needs the texts of the answers to this request."""
        ...

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Records a request with a decision; of the `answers`, in the paths' order, the client got the last one."""
        ...

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Records a request that ended before its decision."""
        ...
