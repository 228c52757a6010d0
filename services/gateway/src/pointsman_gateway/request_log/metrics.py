"""What the journal counts of itself."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class RequestLogMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.entries = Counter("pointsman_journal_entries", "Decisions written to the journal.", registry=registry)
        self.dropped = Counter(
            "pointsman_journal_dropped", "Decisions lost to the journal, by why.", ["reason"], registry=registry
        )
        for reason in ("full", "unwritable", "stopped"):  # a series that is born at 1 hides its first event
            self.dropped.labels(reason)
        self.waiting = Gauge("pointsman_journal_waiting", "Decisions not yet written.", registry=registry)
        self.recovered = Counter(
            "pointsman_journal_recovered",
            "Receipts of gateways that are gone, written to the journal from what they left on disk.",
            registry=registry,
        )
        self.not_ahead = Counter(
            "pointsman_journal_not_ahead",
            "Receipts that stood in memory alone until Redis had them, by why.",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "disk", "unwritable"):
            self.not_ahead.labels(reason)
        self.ahead_bytes = Gauge(
            "pointsman_journal_ahead_bytes", "On disk, of receipts that Redis may not have yet.", registry=registry
        )
        self.feedback = Counter(
            "pointsman_feedback", "Feedback taken, by where it was put.", ["stored"], registry=registry
        )
        self.feedback_lost = Counter(
            "pointsman_feedback_lost",
            "Feedback from the spool whose decision is not in the journal.",
            registry=registry,
        )
        self.spool_bytes = Gauge("pointsman_spool_bytes", "Feedback on disk, waiting for Redis.", registry=registry)
        self.redis_up = Gauge("pointsman_redis_up", "1 while Redis answers in time.", registry=registry)
        self.redis_up.set(1)

    def redis_is(self, up: bool) -> None:
        self.redis_up.set(up)
