"""Load balancing with prefix affinity: an engine with the prompt's prefix in its cache, within a bound on its load."""

import zlib
from collections.abc import Sequence

from pointsman_gateway.domain import Message
from pointsman_gateway.engines.engines import Target

PREFIX_CHARACTERS = 1024
"""Characters of a prompt that are hashed; an engine's prefix cache pays from about there."""

_SPREAD = 0x9E3779B97F4A7C15  # Fibonacci hashing: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)
_LOW = 0xFFFFFFFFFFFFFFFF


def hash_prefix(messages: Sequence[Message]) -> int:
    """The same in every gateway.

    A long system prompt fills the prefix, so that its conversations share it; after a short one the first words of the
    conversation count too.
    """
    text = ""
    for message in messages:
        text += message.content[: PREFIX_CHARACTERS - len(text)]
        if len(text) >= PREFIX_CHARACTERS:
            break
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


class Candidates:
    """The engines that a request may be sent to. Each is taken once."""

    __slots__ = ("_bound", "_key", "_left", "alone")

    def __init__(self, targets: Sequence[Target], key: int, bound: float) -> None:
        """`key` is the prompt's hashed prefix. Affinity gives an engine at most `bound` times the mean load."""
        self._left = list(targets)
        self.alone = len(targets) == 1
        """Whether there was only one from the start."""
        self._key = key
        self._bound = bound

    def take(self) -> Target | None:
        """The best that may be asked now; None if there is none."""
        target = self._left[0] if len(self._left) == 1 else self._best()
        if target is None or not target.cell.may_be_asked:
            return None
        self._left.remove(target)
        return target

    def put_back(self, target: Target) -> None:
        """Lets `take` return it once more."""
        self._left.append(target)

    @property
    def any_left(self) -> bool:
        return any(target.cell.may_be_asked for target in self._left)

    def _best(self) -> Target | None:
        """An engine that is due for a probe; else rendezvous hashing with bounded loads (Mirrokni et al., 2016)."""
        able, total = [], 1
        for target in self._left:
            cell = target.cell
            if cell.may_be_asked:
                if not cell.breaker.closed:
                    return target
                able.append(target)
                total += cell.in_flight
        # Never all of them: their loads add up to less than `total`.
        most = self._bound * total / len(able) if able else 0.0
        best, highest = None, -1
        for target in able:
            cell = target.cell
            if cell.in_flight < most:
                weight = (self._key ^ cell.seed) * _SPREAD & _LOW
                if weight > highest:
                    best, highest = target, weight
        return best
