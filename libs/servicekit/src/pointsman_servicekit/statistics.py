"""Statistics that several services share: intervals of rates, and quantiles from logarithmic buckets."""

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist


@lru_cache(maxsize=64)
def one_sided_z(confidence: float) -> float:
    """Returns the quantile of the standard normal distribution at `confidence`, between 0 and 1: 1.64 for 0.95."""
    return NormalDist().inv_cdf(confidence)


def two_sided_z(confidence: float) -> float:
    """Returns within how many standard deviations of the mean the share `confidence` of a normal distribution lies.

    `confidence` is between 0 and 1: 1.96 for 0.95.
    """
    return one_sided_z((1 + confidence) / 2)


def wilson_interval(mean: float, count: float, z: float) -> tuple[float, float]:
    """Returns the lower and the upper limit of the Wilson score interval of a rate; (0, 1) if `count` is 0 or less.

    `mean` is the mean of `count` observations, each from 0 to 1. `z` is the half-width in standard deviations
    (`one_sided_z`, `two_sided_z`). The formula is for observations that are 0 or 1; values between them vary less
    around the same mean, so the interval is then too wide rather than too narrow. E. B. Wilson, "Probable inference,
    the law of succession, and statistical inference", Journal of the American Statistical Association 22 (1927),
    209-212.
    """
    if count <= 0:
        return 0.0, 1.0
    weight = z * z / count
    centre = (mean + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(mean * (1 - mean) / count + weight / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def lower_limit_of_difference(mean: float, lower_limit: float, other: float, upper_limit: float) -> float:
    """Returns the lower confidence limit of `mean - other`, two means that are measured independently.

    `lower_limit` is a confidence limit of `mean`, and `upper_limit` of `other`, each at the desired confidence. If they
    are Wilson's limits, the method is number 10 of R. G. Newcombe (Statistics in Medicine 17, 1998, 873-890); for other
    limits it is MOVER (G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008, 1693-1702).
    """
    return mean - other - math.hypot(mean - lower_limit, upper_limit - other)


class LogBuckets:
    """Buckets for counting values, whose borders are a constant factor apart.

    The caller counts values in a dict from bucket index to count; dicts from several processes can be added. Bucket 0
    has all values up to `smallest`, bucket k those above the previous border and up to smallest * 2^(k / per_doubling).
    This is DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", PVLDB 12, 2019) with a fixed range.
    """

    def __init__(self, per_doubling: float, smallest: float, largest: float) -> None:
        """Makes `per_doubling` buckets between a value and its double; values above `largest` count as `largest`."""
        self.per_doubling = per_doubling
        self.smallest, self.largest = smallest, largest

    @classmethod
    def with_relative_error(cls, error: float, smallest: float, largest: float) -> "LogBuckets":
        """Makes buckets with which `quantile` has a relative error of at most `error` (0.025 is 2.5 %).

        For values below `smallest` or above `largest`, the error may be larger.
        """
        return cls(1 / math.log2((1 + error) / (1 - error)), smallest, largest)

    def index(self, value: float) -> int:
        if value <= self.smallest:
            return 0
        return math.ceil(self.per_doubling * math.log2(min(value, self.largest) / self.smallest))

    def quantile(self, counts: Mapping[int, int], fraction: float) -> float:
        """Returns approximately the value below which `fraction` (0 to 1) of the counted values lie; 0 if none.

        `counts` maps bucket indices to counts. The result is the point of the quantile's bucket whose relative
        distance to both borders is the same.
        """
        rank = max(1, math.ceil(fraction * sum(counts.values())))
        reached = 0
        for bucket in sorted(counts):
            reached += counts[bucket]
            if reached >= rank:
                return self._upper(bucket) * 2 / (self._upper(1) / self.smallest + 1)
        return 0.0

    def interpolated_quantile(self, counts: Mapping[int, int], fraction: float) -> float:
        """Returns the quantile at `fraction` (0 to 1), interpolated in its bucket; 0 if nothing was counted.

        It assumes that the logarithms of a bucket's values are spread evenly. Unlike `quantile`, the result grows
        continuously with `fraction`, as the comparison of confidence limits of two quantiles needs.
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
"""The 303 buckets in which the request log counts requests by their seconds, for each path (way to answer)."""

CANARY_LATENCY_BUCKETS = LogBuckets(per_doubling=4, smallest=0.001, largest=3600.0)
"""Buckets for the seconds of requests to a canary and to its stable version, as the call `ReportCanaryMetrics` sends
them.

There are 88 buckets; each border is 1.19 times the one before.
"""
