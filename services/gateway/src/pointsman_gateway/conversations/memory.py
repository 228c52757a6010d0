"""Remembers conversations in this process: the most recently stored ones, for a limited time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from pointsman_gateway.domain.conversation import NOTHING_KEPT, KeptPath

MAX_CONVERSATIONS = 20_000
"""Maximum number of conversations, which take about 10 MB."""


class ConversationMemory:
    def __init__(
        self, ttl_seconds: float, capacity: int = MAX_CONVERSATIONS, clock: Callable[[], float] = time.time
    ) -> None:
        self.ttl_seconds = ttl_seconds
        self.now = clock
        self._capacity = capacity
        self._kept: OrderedDict[str, KeptPath] = OrderedDict()
        """By the conversation's id; the one that was stored longest ago comes first."""

    def find(self, ids: Iterable[str]) -> tuple[list[str], KeptPath]:
        """Looks for the first of `ids` under which a conversation is stored that has not expired.

        Returns (the ids up to and including that one, how the conversation's last request was answered). If there is
        none, returns (all ids, `NOTHING_KEPT`).
        """
        seen: list[str] = []
        oldest = self.now() - self.ttl_seconds
        for id in ids:
            seen.append(id)
            kept = self._kept.get(id)
            if kept is not None and kept.used_at >= oldest:
                return seen, kept
        return seen, NOTHING_KEPT

    def put(self, id: str, kept: KeptPath) -> None:
        self._kept[id] = kept
        self._kept.move_to_end(id)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
