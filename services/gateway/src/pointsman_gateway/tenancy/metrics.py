"""What tenancy counts of itself; no label is a key's or a tenant's."""

from pointsman_servicekit.keys.redis_layout import WINDOWS
from prometheus_client import CollectorRegistry, Counter, Gauge


class TenancyMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.refusals = Counter(
            "pointsman_ratelimit_rejected", "Requests refused, by the limit they met.", ["limit"], registry=registry
        )
        self.exchanges = Counter(
            "pointsman_quota_lease_renewals", "Calls to Redis for slices of limits.", ["outcome"], registry=registry
        )
        self.lookups = Counter(
            "pointsman_key_lookups",
            "Keys looked up in Redis, by what came of it.",
            ["outcome"],
            registry=registry,
        )
        self.alone = Counter(
            "pointsman_ratelimit_local_fallback", "Slices that were taken while Redis was away.", registry=registry
        )
        self.slices = Gauge("pointsman_quota_leases", "Slices of limits held.", registry=registry)
        self.keys = Gauge("pointsman_key_cache_size", "Keys of which a verified copy is held.", registry=registry)
        self.unwritten = Gauge(
            "pointsman_usage_flush_lag_seconds", "Since all that keys have used was last written.", registry=registry
        )
        for limit in WINDOWS:
            self.refusals.labels(limit)
        for outcome in ("done", "failed"):
            self.exchanges.labels(outcome)
        for outcome in ("known", "refused", "failed"):
            self.lookups.labels(outcome)
