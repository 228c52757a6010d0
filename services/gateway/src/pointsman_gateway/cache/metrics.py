"""What the cache counts; paths are those of the configuration that cache."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class CacheMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "pointsman_cache_lookups",
            "Requests on paths that cache, by what came of it: exact, semantic, miss, unfit, renewed or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.answers = Counter(
            "pointsman_cache_answers",
            "Whole answers on paths that cache, by what became of them: kept, unfit, busy or away.",
            ["path", "outcome"],
            registry=registry,
        )
        self.redis_up = Gauge(
            "pointsman_cache_redis_up", "1 while the cache's Redis answers in time.", registry=registry
        )
        self.redis_up.set(1)

    def redis_is(self, up: bool) -> None:
        self.redis_up.set(up)
