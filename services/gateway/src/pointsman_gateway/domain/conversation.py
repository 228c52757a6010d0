"""The remembered state of a conversation, and one request's place in it."""

from dataclasses import field
from enum import Enum
from typing import Literal

from pointsman_gateway.domain.value import value

ConversationMode = Literal["sticky", "priced", "off"]


class Step(Enum):
    """The place of a request in its conversation."""

    FIRST = "first"
    """The conversation begins, or nothing is known of it: the policy chooses."""
    LIKE_ANOTHER = "like_another"
    """A conversation begins exactly like one that is under way and must not be disturbed."""
    TURN = "turn"
    """The user has written again."""
    TOOL_LOOP = "tool_loop"
    """The results of tools follow the answer that asked for them."""


@value
class EarlierPath:
    """The path that a conversation has left, whose engine may still have its beginning in the prefix cache."""

    path: str
    used_at: float
    """When, in Unix seconds."""
    characters: int
    """Of the conversation at that time."""


@value
class KeptPath:
    """How the last request of a conversation was answered."""

    path: str
    task: str
    used_at: float
    """When, in Unix seconds."""
    characters: int = 0
    """Of the messages in that request."""
    answers: int = 0
    """Messages of the assistant in that request."""
    version: str = ""
    """The adapter version; empty without an adapter."""
    replaces: str = ""
    """The version that a rollback of this one restores; empty if there is none."""
    key: str = ""
    """The key of the conversation's random choices."""
    protected_until: float = 0.0
    """Until then, in Unix seconds, conversations that begin alike keep the path, since this one is under way."""
    earlier: EarlierPath | None = None
    """The path before this one; None if the path has not changed."""

    def left_for(self, path: str) -> EarlierPath | None:
        """Returns the path that the conversation has left once `path` answers the next request: this one if that
        changes the path, else `earlier`.
        """
        if not self.path or path == self.path:
            return self.earlier
        return EarlierPath(self.path, self.used_at, self.characters)


NOTHING_KEPT = KeptPath("", "", 0.0)


@value
class ConversationStep:
    """A request as a part of its conversation; `kept` is how the request before it was answered."""

    id: str
    kind: Step
    kept: KeptPath = field(default=NOTHING_KEPT)
    key: str = ""
    """The key of random choices; empty: the decision's id, or the user if the request names one."""
    mode: ConversationMode = "priced"
    pins_version: bool = True
    answers: int = 0
    has_tools: bool = False
    is_shared: bool = True
    """Whether other gateways get it."""
    idle_seconds: float = 0.0
    """Since the request before it."""
    requests_left: float = 1.0
    """Expected number of requests until the conversation ends, with this one."""
    notes: tuple[str, ...] = ()

    @property
    def continues(self) -> bool:
        """Returns whether the path of an earlier request is known and matters."""
        return self.kind is not Step.FIRST

    def known_characters(self, path: str, cache_seconds: float) -> int:
        """Returns how many of the conversation's characters are in the prefix cache of a path that it has left.

        0 if it was not on this path just before, or that is over `cache_seconds` ago.
        """
        earlier = self.kept.earlier
        if earlier is None or earlier.path != path:
            return 0
        idle_seconds = self.idle_seconds + self.kept.used_at - earlier.used_at
        return earlier.characters if idle_seconds < cache_seconds else 0
