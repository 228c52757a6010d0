"""What a door has decoded."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pointsman_gateway.domain.caller import ANYONE, Caller
from pointsman_gateway.domain.noun import noun
from pointsman_gateway.domain.sampling import Sampling

AUTO = "auto"
"""The model's name by which a request leaves the choice to the gateway."""


Operation = Literal["chat", "completion", "route", "embeddings"]
"""What is wanted: an engine's answer to a conversation, or one message continued as it is written; the decision alone;
vectors."""


@noun
class Message:
    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the message carries ("name", "tool_calls", "tool_call_id"), for the engine."""


@noun
class Request:
    """What a door has decoded."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    deadline: float = float("inf")
    """On the event loop's clock, seconds."""
    caller: Caller = ANYONE
    cache: str = "use"
    """ "use" it; "renew": no earlier answer is wanted, the new one may be kept; "off"."""
    arrived: float = 0.0
    """By `time.perf_counter`, before its body was read; 0: when the line begins with it."""
    operation: Operation = "chat"
    as_a_whole: bool = False
    """The answer is delivered in one piece, so chunks that arrive together may be joined."""
    _characters: int = field(default=-1, init=False, repr=False, compare=False)

    @property
    def characters(self) -> int:
        """Of all messages; counted once."""
        if self._characters < 0:
            # Nobody can tell that it was not there before.
            self._characters = sum([len(message.content) for message in self.messages])  # type: ignore[misc]
        return self._characters

    @property
    def query(self) -> str:
        """The text that is classified and looked up: the last user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)
