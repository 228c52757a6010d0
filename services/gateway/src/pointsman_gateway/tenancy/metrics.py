"""The Prometheus metrics of API keys and their limits."""

from pointsman_servicekit.keys.redis_layout import WINDOWS
from prometheus_client import CollectorRegistry, Counter, Gauge


class TenancyMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.rejected = Counter(
            "pointsman_ratelimit_rejected", "Requests rejected, by the limit they exceed.", ["limit"], registry=registry
        )
        self.renewals = Counter(
            "pointsman_quota_lease_renewals",
            "Exchanges with Redis about quota leases.",
            ["outcome"],
            registry=registry,
        )
        self.lookups = Counter(
            "pointsman_key_lookups", "Keys looked up in Redis, by result.", ["outcome"], registry=registry
        )
        self.local_fallbacks = Counter(
            "pointsman_ratelimit_local_fallback",
            "Limits enforced locally because Redis was unavailable.",
            registry=registry,
        )
        self.leases = Gauge("pointsman_quota_leases", "Quota leases held.", registry=registry)
        self.cached_keys = Gauge("pointsman_key_cache_size", "Keys with a verified copy.", registry=registry)
        self.flush_lag = Gauge(
            "pointsman_usage_flush_lag_seconds", "Time since all usage of keys was written.", registry=registry
        )
        self.clock_offset = Gauge(
            "pointsman_clock_offset_seconds", "This machine's clock minus that of Redis.", registry=registry
        )
        self.budget_warnings = Counter(
            "pointsman_budget_warnings", "Budgets found nearly spent.", ["limit", "owner"], registry=registry
        )
        self.nearly_spent = Gauge(
            "pointsman_budgets_nearly_spent",
            "Budgets of which 80 % or more are used in the current window, among those in use at this gateway.",
            ["limit", "owner"],
            registry=registry,
        )
        for limit in WINDOWS:  # a series that first appears with the value 1 hides its first event
            self.rejected.labels(limit)
        for outcome in ("done", "failed"):
            self.renewals.labels(outcome)
        for outcome in ("known", "refused", "failed"):
            self.lookups.labels(outcome)
