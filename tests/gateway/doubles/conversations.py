"""A store of conversations that a test controls, and requests as agents send them."""

from collections.abc import Sequence
from typing import Any

from pointsman_gateway.domain import AUTO, Caller, Labels, Message, Request, Sampling
from pointsman_gateway.domain.conversation import NOTHING_KEPT, KeptPath
from pointsman_servicekit.errors import Unavailable

TOOLS = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}


class SharedStore:
    """Implements `ConversationStore` for several gateways, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptPath] = {}
        self.reads = 0
        self.is_up = True
        self.fails = False

    async def read(self, ids: Sequence[str]) -> tuple[str, KeptPath]:
        self.reads += 1
        if self.fails:
            self.is_up = False
            raise Unavailable("nothing within 50 ms", code="redis_unavailable")
        return next(((id, self.kept[id]) for id in ids if id in self.kept), ("", NOTHING_KEPT))

    def write(self, id: str, kept: KeptPath) -> None:
        self.kept[id] = kept


def request(
    *roles: str, tools: bool = True, system: str = "You help.", first: str = "Tidy up.", **more: Any
) -> Request:
    """Returns a request with messages of these roles; the user's first one says `first`."""
    messages = [Message("system", system)] if system else []
    for number, role in enumerate(roles):
        messages.append(Message(role, first if role == "user" and number == 0 else f"{role} {number}"))
    extra = {**(TOOLS if tools else {}), **more.pop("extra", {})}
    caller = Caller(more.pop("api_key", "key-1"))
    return Request(AUTO, tuple(messages), Sampling(extra=extra), caller=caller, **more)


def labels(task: str = "t") -> Labels:
    return Labels(task, 0.9, (), abstained=task == "unknown", stage="static")
