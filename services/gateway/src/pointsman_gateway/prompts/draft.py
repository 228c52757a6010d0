"""A prompt in the making, to which each strategy adds its part."""

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
        own = [m.content for m in self.request.messages if m.role == "system"]
        system = "\n\n".join([*self.system, *own])
        head = (Message("system", system),) if system else ()
        shown = tuple(
            message
            for said, answered in self.examples
            for message in (Message("user", said), Message("assistant", answered))
        )
        return (*head, *shown, *(m for m in self.request.messages if m.role != "system"))
