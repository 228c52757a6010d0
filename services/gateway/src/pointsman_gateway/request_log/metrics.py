"""The metrics of the request log and its write-ahead log."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class RequestLogMetrics:
    """The metrics of the request log.

    The series of `dropped`, `wal_skipped` and `feedback` are created with the value 0, because Prometheus's `rate`
    measures changes between samples, and would miss the first event of a series that begins above 0.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entries = Counter(
            "pointsman_request_log_entries", "Receipts written to the request log.", registry=registry
        )
        self.dropped = Counter(
            "pointsman_request_log_dropped", "Receipts lost to the request log.", ["reason"], registry=registry
        )
        for reason in ("full", "unwritable", "stopped"):
            self.dropped.labels(reason)
        self.waiting = Gauge("pointsman_request_log_waiting", "Receipts not yet written.", registry=registry)
        self.recovered = Counter(
            "pointsman_wal_recovered",
            "Receipts recovered from the write-ahead logs of processes that have ended.",
            registry=registry,
        )
        self.wal_skipped = Counter(
            "pointsman_wal_skipped",
            "Receipts that could not be written to the write-ahead log and were kept in memory only.",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "disk", "unwritable"):
            self.wal_skipped.labels(reason)
        self.wal_bytes = Gauge(
            "pointsman_wal_bytes",
            "Size of the write-ahead log's receipts, which Redis may not have.",
            registry=registry,
        )
        self.feedback = Counter(
            "pointsman_feedback", "Feedback accepted, by where it was stored.", ["stored"], registry=registry
        )
        for stored in ("request_log", "wal", "known"):
            self.feedback.labels(stored)
        self.feedback_lost = Counter(
            "pointsman_feedback_lost",
            "Feedback from the write-ahead log whose decision is not in the request log.",
            registry=registry,
        )
        self.feedback_bytes = Gauge(
            "pointsman_wal_feedback_bytes",
            "Size of the write-ahead log's feedback, which waits for Redis.",
            registry=registry,
        )
        self.export_bytes = Gauge(
            "pointsman_export_bytes", "Size of the records that wait for the exporter.", registry=registry
        )
        self.export_dropped = Counter(
            "pointsman_export_dropped", "Records lost to the export.", ["reason"], registry=registry
        )
        for reason in ("full", "disk", "stopped"):
            self.export_dropped.labels(reason)
        self.redis_up = Gauge("pointsman_redis_up", "1 while Redis answers all calls in time.", registry=registry)
        self.redis_up.set(1)

    def set_redis_up(self, up: bool) -> None:
        self.redis_up.set(up)
