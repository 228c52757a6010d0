"""Consistent hashing of keys to engines, for many engines: a choice takes about as long for a thousand as for a
hundred.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence

from pointsman_gateway.engines.lookups import Target

POINTS, PROBES = 4, 8
"""The number of points of each engine on the circle, and of the places at which a key is looked up."""
LOAD_SHARE = 16
"""Says how often the engines' mean load is computed: with n engines, after about n / LOAD_SHARE choices."""

_CIRCLE = 0xFFFFFFFF


class Ring:
    """Assigns keys to engines by multi-probe consistent hashing (Appleton and O'Reilly, 2015, arXiv 1505.00062).

    If an engine is added or removed, only the keys assigned to that engine change, as with rendezvous hashing. A
    choice looks only at a few engines, while rendezvous hashing looks at all.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        """Takes the engines, at least one, which must have different seeds (`EngineState.seed`)."""
        placed = sorted(
            (_place(target.state.seed, point), number)
            for number, target in enumerate(targets)
            for point in range(POINTS)
        )
        self._points = [point for point, _ in placed]
        self._targets = [targets[number] for _, number in placed]
        self._by_seed = {target.state.seed: target for target in targets}
        self._load = 0
        self._choices_left = 0

    def with_seed(self, seed: int) -> Target | None:
        return self._by_seed.get(seed)

    def near(self, key: int) -> Iterator[Target]:
        """Yields `PROBES` engines for `key`, the hash of a prompt, the best one first. An engine may occur more than
        once.
        """
        points, found = self._points, []
        for probe in range(PROBES):
            place = _place(key, probe)
            position = bisect(points, place)
            if position == len(points):
                position = 0
            found.append(((points[position] - place) & _CIRCLE, position))
        found.sort()
        for _, position in found:
            yield self._targets[position]

    def mean_load(self) -> float:
        """Returns the mean number of this gateway's requests in flight per engine, including one that is about to be
        sent.

        The mean is only computed again after several calls (`LOAD_SHARE`), so it may be slightly out of date.
        """
        if not self._choices_left:
            self._load = sum([target.state.in_flight for target in self._by_seed.values()])
            self._choices_left = len(self._by_seed) // LOAD_SHARE
        else:
            self._choices_left -= 1
        return (self._load + 1) / len(self._by_seed)


def _place(key: int, number: int) -> int:
    """Returns the place of a hash on the circle, a different one for each `number` (Steele's SplitMix64, shortened)."""
    mixed = (key + (number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 27) & _CIRCLE
