"""Parses a service's /metrics page, computes the growth of metrics in a time window, and quantiles of histograms."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
"""The labels of a metric's sample as pairs of name and value, sorted by name."""
Samples = Mapping[str, Mapping[Labels, float]]
"""The values of samples by the metric's name ("pointsman_requests_total"), then by the labels."""

_COUNTERS = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Scrape:
    """The metrics of a service as read from its /metrics page at one time, `at`, in seconds of `time.monotonic`."""

    at: float  # time.monotonic()
    samples: Samples

    def value(self, name: str) -> float | None:
        """Returns the sum of the metric `name` over all its labels; None if the service does not report it."""
        series = self.samples.get(name)
        return sum(series.values()) if series else None


def parse_metrics(text: str, at: float, wanted: tuple[str, ...]) -> Scrape:
    """Parses the text of a /metrics page; metrics whose names begin with none of `wanted` are left out.

    `at` is the time of the scrape in seconds of `time.monotonic`. Raises ValueError if no metric is left, or the text
    is not in Prometheus's format.
    """
    lines = "\n".join(line for line in text.split("\n") if line.startswith(wanted))
    if not lines:
        raise ValueError("it has no metric of this service; check the address")
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
    return Scrape(at, samples)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The 50th, 95th and 99th percentile of a histogram; all are None if nothing was observed."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, buckets: Mapping[float, float]) -> "Quantiles":
        """Computes the percentiles; `buckets` are a histogram's cumulative counts by upper edge, including infinity."""
        return cls(*(quantile(buckets, share) for share in (0.5, 0.95, 0.99)))


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Returns the quantile `share` (0 to 1) of a histogram as Prometheus computes it; None if nothing was observed.

    `buckets` maps upper edges, including infinity, to cumulative counts. The quantile is interpolated linearly between
    the edges, and is at most the highest finite edge.
    """
    edges = sorted(buckets)
    if not edges or buckets[edges[-1]] <= 0:
        return None
    rank = share * buckets[edges[-1]]
    lower, below = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank and buckets[edge] > below:
            if edge == inf:
                return lower
            return lower + (edge - lower) * (rank - below) / (buckets[edge] - below)
        lower, below = edge, buckets[edge]
    return lower


@dataclass(frozen=True, slots=True)
class _Step:
    """The growth of each counter from one scrape to the next."""

    ended: float
    seconds: float
    growth: dict[str, dict[Labels, float]]  # only of counters that grew


class Window:
    """How much the counters of one service grew over the last seconds, computed from scrapes of its metrics."""

    def __init__(self, length: float) -> None:
        """Creates a window without scrapes; `add` adds a scrape.

        The window keeps the growth of counters over the last `length` seconds, and always the growth between the last
        two scrapes.
        """
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
        """Returns the seconds that the window covers; 0 until there are two scrapes."""
        return sum(step.seconds for step in self._steps)

    def growth(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yields (labels, growth) of the counter `name`, once for each label set and each interval between two scrapes.

        Intervals in which a label set did not grow are left out. The sum of a label set's growths is its growth in the
        whole window.
        """
        for step in self._steps:
            for labels, amount in step.growth.get(name, {}).items():
                yield dict(labels), amount

    def total(self, name: str) -> float:
        return sum(amount for _, amount in self.growth(name))


def _growth(before: Samples, after: Samples) -> dict[str, dict[Labels, float]]:
    """Returns each counter's growth, like Prometheus's `increase` but exact: a new or reset counter started at 0."""
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
