"""A decoded request, and the prompt that a path makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pointsman_gateway.domain.caller import ANONYMOUS, Caller
from pointsman_gateway.domain.path import Sampling
from pointsman_gateway.domain.value import Vector, value

AUTO = "auto"
"""The model name with which a client leaves the choice of the path to the gateway."""

PATH_PREFIX = "path:"
"""Before the name of a path in a request's `model`."""

Operation = Literal["chat", "completion", "route", "embeddings"]
"""What the client wants: an answer to a conversation ("chat"), the continuation of one message ("completion"), only the
decision ("route"), or vectors ("embeddings")."""


@value
class Message:
    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the message ("name", "tool_calls", "tool_call_id"), passed to the engine."""


@value
class Request:
    """A request after decoding; it is the same for every API."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    deadline: float = float("inf")
    """On the event loop's clock, seconds."""
    caller: Caller = ANONYMOUS
    cache: str = "use"
    """ "use": read and write the answer cache; "renew": write it only; "off": neither."""
    arrived_at: float = 0.0
    """By `time.perf_counter`, before the body was read; 0 stands for the start of the pipeline."""
    operation: Operation = "chat"
    as_a_whole: bool = False
    """The answer is delivered in one piece, so chunks that arrive together may be joined."""
    _characters: int = field(default=-1, init=False, repr=False, compare=False)

    @property
    def characters(self) -> int:
        """The length of all messages, counted on first use."""
        if self._characters < 0:
            # A cached value does not change what the request means.
            self._characters = sum([len(message.content) for message in self.messages])  # type: ignore[misc]
        return self._characters

    @property
    def query(self) -> str:
        """The text to classify and to search for: the last user message, or else the last message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document that a search found."""

    document_id: str
    title: str
    text: str
    score: float
    start: int = 0  # in its document, in characters
    tokens: int = 0  # of the text, as the retriever counts them


@value
class Prompt:
    """The messages for the engine, and what it took to make them."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    collection_versions: tuple[tuple[str, int], ...] = ()
    """(collection, version) of each search that succeeded."""
    embeddings: int = 0
    """The number of texts that were embedded to make it."""
    vector: Vector | None = field(default=None, compare=False)
    """The question's embedding, if it was known or needed."""
