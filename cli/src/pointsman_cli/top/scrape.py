"""What one service's /metrics says at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""
Samples = Mapping[str, Mapping[Labels, float]]
"""By the sample's name: "pointsman_requests_total", "pointsman_request_duration_seconds_bucket"."""


@dataclass(frozen=True, slots=True)
class Scrape:
    at: float  # by time.monotonic
    samples: Samples

    def value(self, name: str) -> float | None:
        """The sum of a metric's series; None where there are none."""
        series = self.samples.get(name)
        return sum(series.values()) if series else None


def parse(text: str, at: float, wanted: tuple[str, ...]) -> Scrape:
    """Reads only the samples whose names begin with one of `wanted`: a big gateway tells of thousands.

    Raises ValueError where there is none, or it is not Prometheus's text format.
    """
    lines = "\n".join(line for line in text.split("\n") if line.startswith(wanted))
    if not lines:
        raise ValueError("it tells nothing of Pointsman's")
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
    return Scrape(at, samples)
