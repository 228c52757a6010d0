"""The reports of gateways to lora-servers about canaries: new adapter versions that get part of an alias's requests."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestCounts:
    """Counts of the requests to one version of a LoRA adapter."""

    requests: int = 0
    errors: int = 0
    """Requests that failed because of the version or its engine."""
    invalid: int = 0
    """Complete answers that a validator rejected."""
    milliseconds: dict[int, int] = field(default_factory=dict)
    """Number of complete answers by total time, as a dict from bucket to count.

    Bucket 0 counts answers of up to 1 ms, bucket k those of 2^((k-1)/4) to 2^(k/4) ms. See `CANARY_LATENCY_BUCKETS` in
    statistics.py.
    """
    rated: int = 0
    """Number of ratings that callers gave to answers, also to answers that an earlier report has counted."""
    rating: int = 0
    """The sum of the ratings that `rated` counts (each 0 to 1), in thousandths."""

    def add(self, other: "RequestCounts") -> None:
        """Adds the counts of `other` to the counts of this object."""
        self.requests += other.requests
        self.errors += other.errors
        self.invalid += other.invalid
        self.rated += other.rated
        self.rating += other.rating
        for bucket, number in other.milliseconds.items():
            self.milliseconds[bucket] = self.milliseconds.get(bucket, 0) + number


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """The requests that a gateway has counted since its last report, to one version of an alias that has a canary."""

    alias: str
    revision: int
    """The revision number of the alias, which grows with each change of the alias, at the time of the requests."""
    version: str
    """The adapter version that answered: the one to which the alias points, or its canary."""
    counts: RequestCounts
