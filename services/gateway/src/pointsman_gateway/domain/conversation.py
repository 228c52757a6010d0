"""What is stored about a conversation for its next request, and the place of one request in its conversation."""

from dataclasses import field
from enum import Enum
from typing import Literal

from pointsman_gateway.domain.value import value

ConversationMode = Literal["sticky", "priced", "off"]


class Step(Enum):
    """The place of a request in its conversation, such as the first one, or one that returns the results of tools."""

    FIRST = "first"
    """The conversation begins, or nothing is stored for it. The policy chooses the path."""
    LIKE_ANOTHER = "like_another"
    """The conversation begins exactly like another one that is in progress, and so has the same id. It stays on the
    other conversation's path unless that path must be left.
    """
    TURN = "turn"
    """The user has written a further message in a conversation for which a path is stored."""
    TOOL_LOOP = "tool_loop"
    """In the request's messages, results of tools follow the assistant's last message, or the assistant's message is
    the last.
    """


@value
class EarlierPath:
    """The path (way to answer) that answered a conversation before its present path, with the time and length of the
    last request on it.

    The path's engine may still have the text of that request in its prefix cache, which makes going back cheaper.
    """

    path: str
    used_at: float
    """Time of the conversation's last request on this path, in Unix seconds."""
    characters: int
    """Length of all messages in the conversation's last request on this path, in characters."""


@value
class KeptPath:
    """What is stored about a conversation after each of its requests, for the next one: mainly which path (way to
    answer) answered the request.

    The fields describe the last request: its time and length, the adapter version that answered it, and the path that
    answered the conversation before `path`.
    """

    path: str
    task: str
    used_at: float
    """Time of the conversation's last request, in Unix seconds."""
    characters: int = 0
    """Length of all messages in the conversation's last request, in characters."""
    answers: int = 0
    """The number of the assistant's messages in the conversation's last request."""
    version: str = ""
    """The adapter version that answered the last request; empty if the path has no adapter."""
    replaces: str = ""
    """The adapter version that a rollback of `version` restores; empty if there is none."""
    key: str = ""
    """The text that determines the random choices for the conversation, such as whether a canary (a new adapter version
    on trial) answers it; see `Decision.random_key`.
    """
    protected_until: float = 0.0
    """Time in Unix seconds until which a new conversation that begins exactly like this one stays on this one's path; 0
    if this conversation has only a first request without tools.
    """
    earlier: EarlierPath | None = None
    """The path that answered the conversation before `path`; None if its path has never changed."""

    def left_for(self, path: str) -> EarlierPath | None:
        """Returns the value of `earlier` to store after the path named `path` answers the conversation's next request.

        If `path` differs from the stored path, the stored path is returned, with its time and length. If it is equal,
        or no path is stored, `earlier` is returned unchanged, which may be None.
        """
        if not self.path or path == self.path:
            return self.earlier
        return EarlierPath(self.path, self.used_at, self.characters)


NOTHING_KEPT = KeptPath("", "", 0.0)
"""The `KeptPath` of a conversation of which nothing is stored: its path is empty."""


@value
class ConversationStep:
    """One request of a conversation: its place in the conversation, and what is stored or estimated about the
    conversation.

    The router uses it to decide whether the path that answered the last request also answers this one.
    """

    id: str
    kind: Step
    kept: KeptPath = field(default=NOTHING_KEPT)
    """How the conversation's last request before this one was answered."""
    key: str = ""
    """The key of random choices for a request that names no user; if it is empty, the decision's id is the key."""
    mode: ConversationMode = "priced"
    pins_version: bool = True
    """Whether the conversation keeps its adapter version when the adapter's alias is moved to another version."""
    answers: int = 0
    """The number of the assistant's messages in the request."""
    has_tools: bool = False
    """Whether the request allows calls of tools."""
    is_shared: bool = True
    """Whether the gateway also writes the path that answers to Redis, so that other gateways know it."""
    idle_seconds: float = 0.0
    """Seconds since the conversation's last request before this one; 0 for a first request."""
    requests_left: float = 1.0
    """Expected number of requests until the conversation ends, including this one."""
    notes: tuple[str, ...] = ()

    @property
    def continues(self) -> bool:
        """Returns whether routing must consider the stored path of an earlier request; False if the kind is
        `Step.FIRST`.
        """
        return self.kind is not Step.FIRST

    def known_characters(self, path: str, cache_seconds: float) -> int:
        """Returns how many characters of the conversation should still be in the prefix cache of the path named `path`.

        The result is 0 unless `path` answered directly before the conversation's present path, and less than
        `cache_seconds` ago.
        """
        earlier = self.kept.earlier
        if earlier is None or earlier.path != path:
            return 0
        idle_seconds = self.idle_seconds + self.kept.used_at - earlier.used_at
        return earlier.characters if idle_seconds < cache_seconds else 0
