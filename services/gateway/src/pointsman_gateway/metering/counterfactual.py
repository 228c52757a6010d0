"""What each task's requests would have cost, had all of them been sent along one path.

Nothing of it is reckoned while requests wait. What a request would cost along a path is linear in its length: what many
would cost follows from the sum of their lengths, whenever somebody looks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain import PICODOLLARS, Path

NAME = "pointsman_counterfactual_cost_usd"


@dataclass(frozen=True, slots=True)
class Sent:
    """The requests of one task that were sent along one path, added up."""

    answered: int = 0
    tokens: int = 0
    """Of their own, of those that were answered."""
    paid: int = 0
    """Picodollars that they cost, without the training of adapters."""
    lost: int = 0
    """Picodollars that those cost which were not answered."""

    def __sub__(self, before: "Sent") -> "Sent":
        return Sent(
            self.answered - before.answered,
            self.tokens - before.tokens,
            self.paid - before.paid,
            self.lost - before.lost,
        )


class Costs(Protocol):
    """Knows what answers along a path are like."""

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """None where nothing is known of the path yet."""
        ...


class Counterfactual(Collector):
    """Requests that were answered along a path count there at what they cost; others at what they would have. What was
    spent on a request without an answer would have been spent on any path."""

    def __init__(self, sent: Callable[[], Iterable[tuple[str, str, Sent]]]) -> None:
        """`sent` by task and path."""
        self._sent = sent
        self._costs: Costs | None = None
        self._choices: Mapping[str, Sequence[Path]] = {}
        self._told: dict[tuple[str, str], float] = {}
        """Picodollars, by task and the one path."""
        self._seen: dict[tuple[str, str, str], Sent] = {}
        """What has been priced, by task, the path it took, and the one path."""

    def obey(self, costs: Costs, choices: Mapping[str, Sequence[Path]]) -> None:
        """`choices` are the paths that each task may take, by the configuration that serves."""
        self.look()
        self._costs, self._choices = costs, choices

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.look()
        told = "Dollars that all requests of a task would have cost along one path."
        family = CounterMetricFamily(NAME, told, labels=["task", "path"])
        for (task, path), picodollars in self._told.items():
            family.add_metric([task, path], picodollars / PICODOLLARS)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Nothing, so that registering it reckons nothing."""
        return iter(())

    def look(self) -> None:
        """Prices what has been sent since the last look. A path that nothing is known of waits until something is."""
        for task, taken, sent in self._sent():
            for path in self._choices.get(task, ()):
                self._price(task, taken, sent, path)

    def _price(self, task: str, taken: str, sent: Sent, path: Path) -> None:
        place = (task, taken, path.name)
        seen = self._seen.get(place)
        more = sent - seen if seen else sent
        if path.name == taken:
            cost: float | None = more.paid
        else:
            cost = self._costs.picodollars(path, more.answered, more.tokens) if self._costs else None
        if cost is None:
            return
        self._told[task, path.name] = self._told.get((task, path.name), 0.0) + cost + more.lost
        self._seen[place] = sent
