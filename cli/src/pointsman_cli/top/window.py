"""How a service's counters have grown within the last seconds."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pointsman_cli.top.scrape import Labels, Samples, Scrape

_COUNTERS = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class _Step:
    """From one scrape to the next."""

    ended: float
    seconds: float
    growth: dict[str, dict[Labels, float]]  # of what has grown at all


class Window:
    def __init__(self, length: float) -> None:
        """`length` in seconds; the last step is kept whole, however long it was."""
        self._length = length
        self._steps: deque[_Step] = deque()
        self.latest: Scrape | None = None

    def add(self, scrape: Scrape) -> None:
        if self.latest is not None:
            growth = _growth(self.latest.samples, scrape.samples)
            self._steps.append(_Step(scrape.at, scrape.at - self.latest.at, growth))
        while len(self._steps) > 1 and self._steps[0].ended <= scrape.at - self._length:
            self._steps.popleft()
        self.latest = scrape

    @property
    def seconds(self) -> float:
        """That the figures are of; 0 until there are two scrapes."""
        return sum(step.seconds for step in self._steps)

    def growth(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and amount; the same labels may come several times."""
        for step in self._steps:
            for labels, amount in step.growth.get(name, {}).items():
                yield dict(labels), amount

    def total(self, name: str) -> float:
        return sum(amount for _, amount in self.growth(name))


def _growth(before: Samples, after: Samples) -> dict[str, dict[Labels, float]]:
    """As Prometheus's `increase` reckons, but exactly: what is new, or lower than it was, has begun at 0."""
    growth: dict[str, dict[Labels, float]] = {}
    for name, series in after.items():
        if not name.endswith(_COUNTERS):
            continue
        old = before.get(name, {})
        grown = {}
        for labels, value in series.items():
            was = old.get(labels, 0.0)
            if amount := value - was if value >= was else value:
                grown[labels] = amount
        if grown:
            growth[name] = grown
    return growth
