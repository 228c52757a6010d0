"""What an engine is asked for, and the protocol of the client that asks."""

from collections.abc import Sequence
from typing import Protocol

from pointsman_gateway.config.schema import Timeouts
from pointsman_gateway.domain import Message, Operation, Sampling
from pointsman_gateway.domain.value import value
from pointsman_gateway.pipeline.ports import ChunkSink

DEFAULT_TIMEOUTS = Timeouts()

STALL_SECONDS = 5.0
"""Seconds of silence to everybody after which an engine has failed, even if it is the caller who gave up."""


@value
class CompletionRequest:
    """What is to be generated, by whichever engine."""

    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    """On the event loop's clock."""
    stall_seconds: float = STALL_SECONDS
    operation: Operation = "chat"
    path: str = ""
    as_a_whole: bool = False
    """Chunks that arrive together may be joined."""


@value
class EngineRequest:
    """What one engine is asked for."""

    engine: str
    url: str
    model: str
    """As the engine knows it: the served base model or an adapter version."""
    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    """On the event loop's clock; the end of all that is done for the request."""
    api_key: str = ""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    operation: Operation = "chat"
    trace_headers: str = ""
    """Lines of an HTTP head that name the span to which the engine's work belongs; empty without tracing."""
    as_a_whole: bool = False


class Transfer(Protocol):
    """One answer on its way from an engine to a sink."""

    def pause(self) -> None:
        """Nothing is pushed until `resume`; soon the engine has to wait."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Nothing is pushed any more. Before the answer's end this stops the engine's work. May be called twice."""
        ...


class EngineClient(Protocol):
    """Sends requests to engines."""

    def send(self, request: EngineRequest, sink: ChunkSink) -> Transfer:
        """Pushes the answer to `sink`, from a later turn of the event loop on, within the request's timeouts.

        It ends with None or with what `failures` makes: Unavailable, DeadlineExceeded, or InvalidArgument if the caller
        is at fault. The usage comes last, in a chunk of its own.
        """
        ...
