"""What one engine is asked, and who asks it."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from pointsman_gateway.config.schema import Timeouts
from pointsman_gateway.domain import Chunks, Message, Operation, Sampling
from pointsman_gateway.domain.value import value

DEFAULT_TIMEOUTS = Timeouts()


@value
class Call:
    """What one engine is asked."""

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
    trace_heads: str = ""
    """Lines of an HTTP head that tell the engine which span its work belongs to; empty where nobody traces."""


class Client(Protocol):
    """Streams one answer from one engine."""

    def stream(self, call: Call) -> AsyncIterator[Chunks]:
        """Within the call's times, to the first token and between tokens.

        Raises what `failures` makes: Unavailable, DeadlineExceeded, or InvalidArgument for the caller's mistakes.
        Closing the iterator closes the connection, which stops the engine's work.
        """
        ...


def nobody_cares() -> None:
    pass


@value
class Opened:
    """An answer that has begun: its first chunk is there."""

    model: str
    chunks: AsyncIterator[Chunks]
    cached: str = ""
    """How it was found in the cache; empty where an engine answers."""
    hedged: int = 0
    """How many other engines were given the same prompt, and had not begun when this one did."""
    waited: float = 0.0
    """Seconds until its adapter was loaded."""
    embeddings: int = 0
    """Texts that were embedded to look for it in the cache."""
    accepted: Callable[[], None] = nobody_cares
    """To be called at the answer's end, where no validator has refused it."""
