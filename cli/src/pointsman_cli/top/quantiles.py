"""Quantiles of a histogram, as Prometheus's `histogram_quantile` reckons them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Quantiles:
    """None where nothing was observed."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, buckets: Mapping[float, float]) -> "Quantiles":
        """`buckets`: how many are at or below each upper edge, the infinite one among them."""
        return cls(*(quantile(buckets, share) for share in (0.5, 0.95, 0.99)))


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Between two edges in a straight line; above the highest finite edge: that edge."""
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
