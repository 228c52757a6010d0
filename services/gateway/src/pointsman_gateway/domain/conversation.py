"""The remembered state of a conversation, and one request's place in it."""

from dataclasses import field
from enum import Enum
from typing import Literal

from pointsman_gateway.domain.value import value

ConversationMode = Literal["sticky", "priced", "off"]


class Step(Enum):
    """The place of a request in its conversation: it is the first one, has a further message of the user, or returns
    the results of tools to the model.
    """

    FIRST = "first"
    """The conversation begins, or nothing is stored for it. The policy chooses the path."""
    LIKE_ANOTHER = "like_another"
    """A conversation begins exactly like one that is in progress, and so has the same id. It stays on the path of that
    one unless the path must be left."""
    TURN = "turn"
    """The user has written a further message."""
    TOOL_LOOP = "tool_loop"
    """Results of tools follow the assistant's last message, or that message is the last of all."""


@value
class EarlierPath:
    """A path that a conversation has left; its engine may still have the conversation in the prefix cache."""

    path: str
    used_at: float
    """Time of the last request on this path, in Unix seconds."""
    characters: int
    """Length of the messages in that request, in characters."""


@value
class KeptPath:
    """How the last request of a conversation was answered: what is stored for the conversation."""

    path: str
    task: str
    used_at: float
    """Time of that request, in Unix seconds."""
    characters: int = 0
    """Length of the messages in that request, in characters."""
    answers: int = 0
    """The number of the assistant's messages in that request."""
    version: str = ""
    """The adapter version that answered; empty if the path has no adapter."""
    replaces: str = ""
    """The version that a rollback of `version` restores; empty if there is none."""
    key: str = ""
    """The key of the random choices for the conversation, as `Decision.random_key`."""
    protected_until: float = 0.0
    """Time in Unix seconds until which a new conversation that begins exactly like this one stays on the path; 0 if
    this one has only a first request without tools."""
    earlier: EarlierPath | None = None
    """The path before this one; None if the path has not changed."""

    def left_for(self, path: str) -> EarlierPath | None:
        """Returns the value that `earlier` has after the next request, which the path named `path` answers.

        If the conversation changes its path, that is this object's path; otherwise it is the present `earlier`.
        """
        if not self.path or path == self.path:
            return self.earlier
        return EarlierPath(self.path, self.used_at, self.characters)


NOTHING_KEPT = KeptPath("", "", 0.0)
"""Stands for a conversation of which nothing is stored."""


@value
class ConversationStep:
    """A request's place in its conversation, and what is known about the conversation."""

    id: str
    kind: Step
    kept: KeptPath = field(default=NOTHING_KEPT)
    """How the conversation's last request before this one was answered."""
    key: str = ""
    """The key of random choices for a request that names no user; empty: the decision's id."""
    mode: ConversationMode = "priced"
    pins_version: bool = True
    """Whether the conversation keeps its adapter version after a change of the alias."""
    answers: int = 0
    """The number of the assistant's messages in the request."""
    has_tools: bool = False
    """Whether the request allows calls of tools."""
    is_shared: bool = True
    """Whether the path that answers is also stored in Redis, for other gateways."""
    idle_seconds: float = 0.0
    """Seconds since the conversation's last request before this one; 0 for a first request."""
    requests_left: float = 1.0
    """Expected number of requests until the conversation ends, including this one."""
    notes: tuple[str, ...] = ()

    @property
    def continues(self) -> bool:
        """Returns whether the path of an earlier request is stored and must be considered; False for `Step.FIRST`."""
        return self.kind is not Step.FIRST

    def known_characters(self, path: str, cache_seconds: float) -> int:
        """Returns how many characters of the conversation should still be in the prefix cache of `path`, which the
        conversation has left.

        The result is 0 unless `path` is the one directly before the present path, and answered less than
        `cache_seconds` ago.
        """
        earlier = self.kept.earlier
        if earlier is None or earlier.path != path:
            return 0
        idle_seconds = self.idle_seconds + self.kept.used_at - earlier.used_at
        return earlier.characters if idle_seconds < cache_seconds else 0
