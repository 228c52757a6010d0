"""Users who are drawn as those are of whom only the digest is known."""

from bisect import bisect_left
from dataclasses import replace

from pointsman_gateway.domain import Request
from pointsman_gateway.routing.policy import point

COUNT = 1 << 16
"""A split's border lies between a user and the stand-in about once in so many requests."""


class StandIns:
    """Made once, in a tenth of a second."""

    def __init__(self) -> None:
        self._keys = sorted((point(key), key) for key in map(str, range(COUNT)))

    def of(self, user_digest: str) -> str:
        """A name whose place in any split is that of the user with this digest."""
        place = int(user_digest, 16) / 2 ** (4 * len(user_digest))
        return self._keys[min(bisect_left(self._keys, (place, "")), COUNT - 1)][1]


def as_drawn(request: Request, decision_id: str, user_digest: str, stand_ins: StandIns) -> Request:
    """With a user whose lot is the same each time: itself, its stand-in, or for nobody the decision's id."""
    if request.user:
        return request
    return replace(request, user=stand_ins.of(user_digest) if user_digest else decision_id)
