"""Estimates how many more requests a conversation will have, from earlier conversations with the same API key."""

from collections import OrderedDict

MAX_KEYS = 1024
MAX_REQUESTS = 64
"""Highest number of a request in its conversation that has a count of its own. Requests with higher numbers are added
to its count."""
MAX_COUNT = 4096
"""If a count of an API key exceeds this number, all counts of the key are halved, so that recent conversations weigh
more."""
PRIOR_CONVERSATIONS, PRIOR_REQUESTS = 4.0, 3.0
"""The prior of the estimate for each API key: it counts like `PRIOR_CONVERSATIONS` conversations that each had
`PRIOR_REQUESTS` further requests."""


class ConversationLengths:
    """Counts for each API key how many conversations had a first request, a second request, and so on.

    From the counts it estimates how many requests a conversation has left. It keeps the counts of at most `MAX_KEYS`
    keys. Beyond that, it forgets the key that was added or passed to `requests_left` longest ago.
    """

    def __init__(self) -> None:
        self._reached: OrderedDict[str, list[float]] = OrderedDict()
        """By API key, the number of conversations that reached each request number. The key to be forgotten next comes
        first."""

    def add(self, key: str, request: int) -> None:
        """Counts that a conversation of the API key `key` has had its request number `request`; the first request is
        number 1.
        """
        reached = self._reached.get(key)
        if reached is None:
            reached = self._reached[key] = [0.0] * (MAX_REQUESTS + 1)
            if len(self._reached) > MAX_KEYS:
                self._reached.popitem(last=False)
        reached[min(request, MAX_REQUESTS)] += 1
        if reached[min(request, MAX_REQUESTS)] > MAX_COUNT:
            reached[:] = [count / 2 for count in reached]

    def requests_left(self, key: str, request: int) -> float:
        """Returns how many requests a conversation of the API key `key` probably has left, its current request
        included.

        `request` is the number of the current request; the first is number 1. The result is an average over the key's
        earlier conversations that reached this number, and over the prior, so that it exists for a new key too.
        """
        reached, number = self._reached.get(key), min(request, MAX_REQUESTS)
        following, here = PRIOR_CONVERSATIONS * PRIOR_REQUESTS, PRIOR_CONVERSATIONS
        if reached is not None:
            self._reached.move_to_end(key)
            following += sum(reached[number + 1 :])
            here += reached[number]
        return 1 + following / here
