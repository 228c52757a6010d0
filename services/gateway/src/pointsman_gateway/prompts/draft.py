"""A prompt in the making, to which each strategy adds its part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pointsman_gateway.domain import Message, Passage, Request, Vector


@dataclass(frozen=True, slots=True)
class Draft:
    request: Request
    vector: Vector | None
    system: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """(what a user said, what should be answered)."""
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    retrieval_seconds: float = 0.0
    versions: tuple[tuple[str, int], ...] = ()
    """(collection, its version) of each search that was answered."""
    is_last: bool = False
    """No other path can be taken any more."""

    def with_system(self, text: str) -> "Draft":
        return replace(self, system=(*self.system, text))

    def messages(self) -> tuple[Message, ...]:
        """One system message (ours, then the client's own), the examples, the conversation."""
        shown = tuple(
            message
            for said, answered in self.examples
            for message in (Message("user", said), Message("assistant", answered))
        )
        return conversation(self.system, self.request.messages, shown)


def conversation(
    system: Sequence[str], said: Sequence[Message], shown: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    """One system message (ours, then the client's own), what is `shown`, and what was said beside."""
    own = [message.content for message in said if message.role == "system"]
    rest = tuple([message for message in said if message.role != "system"]) if own else tuple(said)
    text = "\n\n".join([*system, *own])
    return (Message("system", text), *shown, *rest) if text else (*shown, *rest)
