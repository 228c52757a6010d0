"""What shadows do, cost and show; none of it is in the series of requests."""

from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.shadow.pairs import Pair, Regret

BY_PAIR = ["task", "chosen", "path"]


class ShadowMetrics:
    """Labels are of the configuration's `shadow` sections only: nothing else is ever drawn."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shadows = Counter(
            "pointsman_shadows",
            "Requests that were drawn to be answered by another path as well, by what came of it.",
            ["task", "path", "outcome"],
            registry=registry,
        )
        self._spent = Counter(
            "pointsman_shadow_spent_usd", "Dollars, unfinished answers included.", ["task", "path"], registry=registry
        )
        self._pairs = Counter("pointsman_shadow_pairs", "Requests answered by both.", BY_PAIR, registry=registry)
        self._cost = Counter(
            "pointsman_shadow_pair_usd", "Dollars of those, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._seconds = Counter(
            "pointsman_shadow_pair_seconds", "Seconds of those, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._scored = Counter(
            "pointsman_shadow_scored", "Pairs of which it is known how good both are.", BY_PAIR, registry=registry
        )
        self._quality = Counter(
            "pointsman_shadow_quality", "Their qualities, summed up.", [*BY_PAIR, "side"], registry=registry
        )
        self._regret_usd = Counter(
            "pointsman_regret_usd", "Dollars that a path no worse would have spared.", BY_PAIR, registry=registry
        )
        self._regret_quality = Counter(
            "pointsman_regret_quality", "By how much it would have been better.", BY_PAIR, registry=registry
        )

    def ended(self, task: str, path: str, outcome: str, usd: float = 0.0) -> None:
        """`outcome` is "ok"; or why it was not begun, or broken off: "crowded", "too_many", "spent", "unsettled",
        "stopped", or an error's code."""
        self._shadows.labels(task, path, outcome).inc()
        if usd:
            self._spent.labels(task, path).inc(usd)

    def paired(self, pair: Pair) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._pairs.labels(*labels).inc()
        for name, side in (("chosen", pair.chosen), ("shadow", pair.other)):
            self._cost.labels(*labels, name).inc(side.cost_usd)
            self._seconds.labels(*labels, name).inc(side.seconds)

    def scored(self, pair: Pair, chosen: float, other: float, regret: Regret) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._scored.labels(*labels).inc()
        self._quality.labels(*labels, "chosen").inc(chosen)
        self._quality.labels(*labels, "shadow").inc(other)
        self._regret_usd.labels(*labels).inc(regret.usd)
        self._regret_quality.labels(*labels).inc(regret.quality)
