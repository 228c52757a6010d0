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
    """The first request of a conversation whose messages are exactly those with which a conversation in progress began,
    so that both have the same id. The request is answered by the path of the conversation in progress, unless that path
    cannot be used.
    """
    TURN = "turn"
    """The user has written a further message."""
    TOOL_LOOP = "tool_loop"
    """The request lets the model go on with its turn: results of tools follow the assistant's last message, or the last
    of all messages is one of the assistant.
    """


@value
class EarlierPath:
    """The path (way to answer) that answered a conversation before its present path: its name, the time of its last
    request, and the length of that request's messages.

    The path's engine may still have those messages in its prefix cache, which makes it cheaper to return to the path.
    """

    path: str
    used_at: float
    """Time of the last request on this path, in Unix seconds."""
    characters: int
    """Length of the messages in the last request on this path, in characters."""


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
    """Length of the messages in the conversation's last request, in characters."""
    answers: int = 0
    """The number of the assistant's messages in the conversation's last request."""
    version: str = ""
    """The adapter version that answered; empty if the path has no adapter."""
    replaces: str = ""
    """The adapter version that an operator restores by a rollback of `version`; empty if there is none."""
    key: str = ""
    """The text that determines the random choices for the conversation, such as whether a canary (a new adapter version
    on trial) answers it; see `Decision.random_key`.
    """
    protected_until: float = 0.0
    """Time in Unix seconds. Until then, a new conversation that begins with exactly the same messages is answered by
    this path. 0 if the conversation has had only one request, without tools.
    """
    earlier: EarlierPath | None = None
    """The path that answered the conversation before `path`; None if no other path has."""

    def left_for(self, path: str) -> EarlierPath | None:
        """Returns the value of `earlier` to store after the path named `path` has answered the conversation's next
        request.

        If `path` is another path than the one stored here, that is the stored one, with its time and length. If it is
        the same path, or if none is stored, it is the present `earlier`, which may be None.
        """
        if not self.path or path == self.path:
            return self.earlier
        return EarlierPath(self.path, self.used_at, self.characters)


NOTHING_KEPT = KeptPath("", "", 0.0)
"""The `KeptPath` of a conversation about which nothing is stored: its texts are empty and its numbers 0."""


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
    """The text that determines random choices for the conversation if its requests name no user. If it is empty, the id
    of the request's decision is used.
    """
    mode: ConversationMode = "priced"
    pins_version: bool = True
    """Whether later requests of the conversation are answered by the same adapter version after the adapter's alias was
    moved to another version.
    """
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
        """Returns whether the path of an earlier request is stored, so that routing has to consider it; False for a
        first request.
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
