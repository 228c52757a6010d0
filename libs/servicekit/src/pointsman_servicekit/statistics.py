"""Statistics that several services share: Wilson intervals, and quantiles from logarithmic buckets."""

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist


@lru_cache(maxsize=64)
def one_sided_z(confidence: float) -> float:
    """Returns how many standard deviations above the mean `confidence` (0 to 1) of a normal distribution ends."""
    return NormalDist().inv_cdf(confidence)


def two_sided_z(confidence: float) -> float:
    """Returns the standard deviations around the mean within which `confidence` (0 to 1) lies: 1.96 for 0.95."""
    return one_sided_z((1 + confidence) / 2)


def wilson_interval(mean: float, count: float, z: float) -> tuple[float, float]:
    """Returns the Wilson score interval of a rate: its lower and upper limit, (0, 1) if `count` is 0 or less.

    `mean` is the mean of `count` observations between 0 and 1. `z` is the half-width in standard deviations. The
    formula is for observations that are 0 or 1; values in between vary less around the same mean, so the interval is
    then too wide rather than too narrow. E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if count <= 0:
        return 0.0, 1.0
    weight = z * z / count
    centre = (mean + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(mean * (1 - mean) / count + weight / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


class LogBuckets:
    """Buckets whose borders are a constant factor apart, so that counts from several processes can be added.

    Values are counted in a plain `dict[int, int]` from bucket index to count. This is DDSketch (Masson, Rim and Lee,
    "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12, 2019) with a fixed
    range. Bucket 0 holds all values up to `smallest`; bucket k holds those up to smallest * 2^(k / per_doubling).
    """

    def __init__(self, per_doubling: float, smallest: float, largest: float) -> None:
        """Makes `per_doubling` buckets between a value and its double; values above `largest` count as `largest`."""
        self.per_doubling = per_doubling
        self.smallest, self.largest = smallest, largest

    @classmethod
    def with_relative_error(cls, error: float, smallest: float, largest: float) -> "LogBuckets":
        """Makes buckets from which `quantile` is known to within the fraction `error` of its true value."""
        return cls(1 / math.log2((1 + error) / (1 - error)), smallest, largest)

    def index(self, value: float) -> int:
        if value <= self.smallest:
            return 0
        return math.ceil(self.per_doubling * math.log2(min(value, self.largest) / self.smallest))

    def quantile(self, counts: Mapping[int, int], fraction: float) -> float:
        """Returns the value below which `fraction` (0 to 1) of the counted values lie, 0 if there are none.

        It is the point of its bucket whose relative error is smallest at both borders.
        """
        rank = max(1, math.ceil(fraction * sum(counts.values())))
        reached = 0
        for bucket in sorted(counts):
            reached += counts[bucket]
            if reached >= rank:
                return self._upper(bucket) * 2 / (self._upper(1) / self.smallest + 1)
        return 0.0

    def interpolated_quantile(self, counts: Mapping[int, int], fraction: float) -> float:
        """Returns a quantile, interpolated in its bucket as if the values' logarithms were spread evenly.

        It is continuous in `fraction`, as a comparison of two quantiles' confidence limits needs.
        """
        rank = fraction * sum(counts.values())
        below = 0
        for bucket in sorted(counts):
            count = counts[bucket]
            if count and below + count >= rank:
                return self._upper(bucket - 1 + (rank - below) / count)
            below += count
        return self._upper(max(counts)) if counts else 0.0

    def _upper(self, bucket: float) -> float:
        return float(self.smallest * 2 ** (bucket / self.per_doubling))


PATH_LATENCY_BUCKETS = LogBuckets.with_relative_error(0.025, smallest=0.001, largest=3600.0)
"""Seconds of requests by path, in the request log: 303 buckets."""

CANARY_LATENCY_BUCKETS = LogBuckets(per_doubling=4, smallest=0.001, largest=3600.0)
"""Seconds of requests to a canary and its stable version, as `ReportCanaryMetrics` transmits them: 88 buckets, each
1.19 times as long as the one before."""
