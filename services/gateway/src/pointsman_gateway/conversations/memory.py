"""Stores in this process which path answered each conversation. The newest conversations are stored, for a limited
time.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from pointsman_gateway.domain.conversation import NOTHING_KEPT, KeptPath

MAX_CONVERSATIONS = 20_000
"""Maximum number of stored conversations; as many take about 10 MB. If there are more, the one stored longest ago is
dropped."""


class ConversationMemory:
    def __init__(
        self, ttl_seconds: float, capacity: int = MAX_CONVERSATIONS, clock: Callable[[], float] = time.time
    ) -> None:
        self.ttl_seconds = ttl_seconds
        self.now = clock
        self._capacity = capacity
        self._kept: OrderedDict[str, KeptPath] = OrderedDict()
        """How each conversation's last request was answered, by the conversation's id, in the order in which they were
        stored."""

    def find(self, ids: Iterable[str]) -> tuple[list[str], KeptPath]:
        """Returns how the last request of a stored conversation was answered, for the first of `ids` that is stored and
        has not expired.

        The result is a pair (all ids up to the stored one, its `KeptPath`). If none of the ids is stored, it is (all
        ids, `NOTHING_KEPT`).
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
