"""The reports of gateways to lora-servers about the requests to aliases that have a canary."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestCounts:
    """Counts of the requests to one adapter version."""

    requests: int = 0
    errors: int = 0
    """Requests that failed because of the version or its engine."""
    invalid: int = 0
    """Complete answers that a validator rejected."""
    milliseconds: dict[int, int] = field(default_factory=dict)
    """Complete answers by total time: bucket k counts those of 2^((k-1)/4) to 2^(k/4) ms, bucket 0 those of up to 1 ms.
    See `CANARY_LATENCY_BUCKETS` in statistics.py."""
    rated: int = 0
    """Number of ratings by callers. It includes ratings of answers that were counted in an earlier report."""
    rating: int = 0
    """The sum of these ratings (each 0 to 1), in thousandths."""

    def add(self, other: "RequestCounts") -> None:
        """Adds the counts of `other` to these."""
        self.requests += other.requests
        self.errors += other.errors
        self.invalid += other.invalid
        self.rated += other.rated
        self.rating += other.rating
        for bucket, number in other.milliseconds.items():
            self.milliseconds[bucket] = self.milliseconds.get(bucket, 0) + number


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """The requests to one version of an alias with a canary that a gateway has counted since its last report."""

    alias: str
    revision: int
    """The alias's revision at the time of the requests."""
    version: str
    """The alias's stable version or its canary."""
    counts: RequestCounts
