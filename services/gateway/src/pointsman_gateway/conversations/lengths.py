"""Estimates how many requests a conversation still has, from the earlier conversations of its API key."""

from collections import OrderedDict

MAX_KEYS = 1024
MAX_REQUESTS = 64
"""Requests of this number and all later ones are counted together."""
MAX_COUNT = 4096
"""Conversations after which all counts are halved, so that old ones are forgotten."""
PRIOR_CONVERSATIONS, PRIOR_REQUESTS = 4.0, 3.0
"""The prior for a new key: it counts as so many conversations, each with so many requests left."""


class ConversationLengths:
    """Counts, for each key, how many of its conversations reached their first, second, ... request. Beyond `MAX_KEYS`
    keys, forgets the longest unused one; halves a key's counts when one exceeds `MAX_COUNT`.
    """

    def __init__(self) -> None:
        self._reached: OrderedDict[str, list[float]] = OrderedDict()
        """By key, the longest unused first."""

    def add(self, key: str, request: int) -> None:
        """Counts that a conversation has reached its request of this number; the first is 1."""
        reached = self._reached.get(key)
        if reached is None:
            reached = self._reached[key] = [0.0] * (MAX_REQUESTS + 1)
            if len(self._reached) > MAX_KEYS:
                self._reached.popitem(last=False)
        reached[min(request, MAX_REQUESTS)] += 1
        if reached[min(request, MAX_REQUESTS)] > MAX_COUNT:
            reached[:] = [count / 2 for count in reached]

    def requests_left(self, key: str, request: int) -> float:
        """Returns the expected number of requests until a conversation's end, request number `request` included: its
        mean residual life by the earlier conversations of `key`.
        """
        reached, number = self._reached.get(key), min(request, MAX_REQUESTS)
        following, here = PRIOR_CONVERSATIONS * PRIOR_REQUESTS, PRIOR_CONVERSATIONS
        if reached is not None:
            self._reached.move_to_end(key)
            following += sum(reached[number + 1 :])
            here += reached[number]
        return 1 + following / here
