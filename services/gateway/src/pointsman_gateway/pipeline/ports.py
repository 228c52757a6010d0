"""The protocols of the request path, one for each concept; stages and servers depend on these alone.

Request -> Classifier -> Decision -> PromptBuilder -> Backend -> AnswerSource -> ChunkSink -> AnswerSink
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import (
    Caller,
    Chunks,
    CompletedAnswer,
    Decision,
    Feedback,
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
    """Receives one answer of one source, as it arrives."""

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Never empty. `last`: the end is known to follow at once."""
        ...

    def ended(self, error: Exception | None) -> None:
        """Called once; `error` is None if the answer is complete."""
        ...


class AnswerSource(Protocol):
    """An answer that has begun. It pushes its chunks, from the first one on, to the sink that is attached."""

    def attach(self, sink: ChunkSink) -> None:
        """Called once. Pushes what has arrived before it returns."""
        ...

    def pause(self) -> None:
        """Nothing is pushed until `resume`; soon the engine has to wait."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Frees the engine; before the answer's end this stops its work. May be called twice."""
        ...


def ignore_acceptance() -> None:
    pass


@value
class OpenAnswer:
    """An answer of which the first chunk is there."""

    model: str
    source: AnswerSource
    cached: str = ""
    """How it was found in the cache ("exact", "semantic"); empty if an engine answers."""
    hedged: int = 0
    """How many other engines were given the same prompt, and had not begun when this one did."""
    waited: float = 0.0
    """Seconds until its adapter was loaded."""
    embeddings: int = 0
    """Texts that were embedded for the look-up in the cache."""
    accepted: Callable[[], None] = ignore_acceptance
    """To be called at the answer's end, unless a validator has refused it."""


class AnswerSink(Protocol):
    """Writes one request's answer to its caller: `started`, `chunks`..., `finished`; or `failed`; and last `closed`.

    If the caller has gone there is neither `finished` nor `failed`.
    """

    def started(self, started: Started) -> None:
        """The first chunk is there, and follows at once."""
        ...

    def chunks(self, chunks: Chunks, last: bool) -> None:
        """Never empty. `last`: `finished` is known to follow at once."""
        ...

    def finished(self, finished: Finished) -> None:
        """The answer is complete, and its receipt is written."""
        ...

    def failed(self, error: PointsmanError) -> None:
        """Before or after `started`; the receipt is written. The caller does not read if it is an `AnswerNotRead`."""
        ...

    def closed(self) -> None:
        """The request holds nothing any more: the caller may send its next one."""
        ...


class Classifier(Protocol):
    async def label(self, request: Request) -> Labels: ...


class PromptBuilder(Protocol):
    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Raises PointsmanError."""
        ...


class Backend(Protocol):
    """Opens answers: an engine, the cache in front of engines, or a wrapper around either."""

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        """Returns once the first chunk is there. Raises PointsmanError."""
        ...


class Reservation(Protocol):
    """What one request has reserved of its caller's limits."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The caller's limits now, as OpenAI's `x-ratelimit-*` headers."""
        ...

    def afford_now(self, usd: float) -> bool:
        """Reserves dollars, in addition to those reserved before; False if `afford` has to be awaited. Raises
        ResourceExhausted."""
        ...

    async def afford(self, usd: float) -> None:
        """Raises ResourceExhausted."""
        ...

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        """Called at the request's end, whatever its outcome. Idempotent."""
        ...


class Tenancy(Protocol):
    """Identifies callers and enforces their limits."""

    def identify_now(self, credential: str) -> Caller | None:
        """From a local copy; None if `identify` has to be awaited."""
        ...

    async def identify(self, credential: str) -> Caller:
        """Raises Unauthenticated, Unavailable."""
        ...

    def enter_now(self, caller: Caller, tokens: int) -> Reservation | None:
        """Reserves a request and `tokens`; None if `enter` has to be awaited. Raises ResourceExhausted."""
        ...

    async def enter(self, caller: Caller, tokens: int) -> Reservation:
        """Raises ResourceExhausted."""
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """The caller's limits now, as OpenAI's `x-ratelimit-*` headers."""
        ...


class Journal(Protocol):
    """Keeps the receipt of every request. Its methods neither wait nor raise."""

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Whether `note` needs the texts of the answers."""
        ...

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Of a request with a decision. `answers`: in the order of the paths; the caller got the last one."""
        ...

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Of a request that ended before its decision."""
        ...


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    pieces: tuple[bytes, ...]
    """The body."""
    retry_after: float | None = None


class HttpUnreachable(Exception):
    """There is no reply; the message says why."""


class HttpPoster(Protocol):
    """Posts a body to an engine, for an answer that is wanted as a whole."""

    async def post(self, url: str, api_key: str, body: bytes, deadline: float, max_bytes: int) -> HttpReply:
        """`deadline` on the event loop's clock, `max_bytes` of the reply's body. Raises HttpUnreachable."""
        ...


class StoredFeedback(Protocol):
    @property
    def where(self) -> str:
        """ "request_log" or "wal"."""
        ...

    @property
    def known_already(self) -> bool:
        """Whether the same feedback had been stored before."""
        ...


class FeedbackStore(Protocol):
    async def take(self, feedback: Feedback) -> StoredFeedback:
        """Returns once the feedback is on disk or in Redis. Raises PointsmanError."""
        ...
