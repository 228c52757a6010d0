"""Metrics of shadow requests: their number and cost, the scores of both answers, the regret, and judges' verdicts."""

from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.shadow.pair import Pair, Regret

GOOD = 0.5
"""Scores (0 to 1) of at least this value count as good when a judge's scores are compared with people's."""


BY_PAIR = ["task", "chosen", "path"]


def _verdict(score: float) -> str:
    return "good" if score >= GOOD else "bad"


class ShadowMetrics:
    """The Prometheus metrics of shadow requests, of pairs of answers and of judges.

    The metrics of regular requests leave shadow requests out; the metrics of calls to engines include them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "pointsman_shadow_requests",
            "Requests sampled for shadowing, by outcome.",
            ["task", "path", "outcome"],
            registry=registry,
        )
        self._cost = Counter(
            "pointsman_shadow_cost_usd", "Cost, including that of failed requests.", ["task", "path"], registry=registry
        )
        self._pairs = Counter("pointsman_shadow_pairs", "Requests answered by both paths.", BY_PAIR, registry=registry)
        self._pair_cost = Counter(
            "pointsman_shadow_pair_cost_usd", "Cost of pairs, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._pair_seconds = Counter(
            "pointsman_shadow_pair_seconds", "Duration of pairs, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._scored = Counter(
            "pointsman_shadow_scored", "Pairs of which both qualities are known.", BY_PAIR, registry=registry
        )
        self._quality = Counter(
            "pointsman_shadow_quality", "Sum of the qualities of scored pairs.", [*BY_PAIR, "side"], registry=registry
        )
        self._regret_usd = Counter(
            "pointsman_regret_usd", "Dollars that a path of at least the same quality would save.", BY_PAIR,
            registry=registry,
        )  # fmt: skip
        self._regret_quality = Counter(
            "pointsman_regret_quality", "By how much the other path's answers were better.", BY_PAIR, registry=registry
        )

        self._verdicts = Counter(
            "pointsman_judge_verdicts", "Pairs for a judge, by outcome.", ["task", "outcome"], registry=registry
        )
        self._judge_cost = Counter("pointsman_judge_cost_usd", "Cost of judges.", ["task"], registry=registry)
        self._agreements = Counter(
            "pointsman_judge_agreements",
            "Judged answers that people have rated too, by whether each found them good.",
            ["task", "judge", "human"],
            registry=registry,
        )

    def count_verdict(self, task: str, outcome: str) -> None:
        """Counts the result of the judge (a language model) for a pair of answers, or the reason why the pair was not
        judged.

        `outcome` is "chosen" if the caller's answer was better, "shadow" if the shadow request's answer was, "tie", or
        "disagreement" if the result depended on the order of the answers. If the pair was not judged, `outcome` is
        "unparsable" (the judge's reply), "no_text" (an answer has none), "spent" (the day's limit is reached),
        "unsettled" (the spending of other gateways is unknown), "too_many" (`MAX_WAITING` pairs wait), "stopped" (the
        gateway stops), or the code of the judge's error.
        """
        self._verdicts.labels(task, outcome).inc()

    def count_judge_cost(self, task: str, usd: float) -> None:
        self._judge_cost.labels(task).inc(usd)

    def count_agreement(self, task: str, judge: float, human: float) -> None:
        """Counts one answer by whether the judge's score and a person's score (each 0 to 1) are at least `GOOD`."""
        self._agreements.labels(task, _verdict(judge), _verdict(human)).inc()

    def count_request(self, task: str, path: str, outcome: str, usd: float = 0.0) -> None:
        """Counts a shadow request and its cost in dollars.

        `outcome` is "ok", an error's code, "internal" for an unexpected error, or why the request did not run or was
        cancelled: "crowded" (regular requests need the capacity), "too_many" (shadow requests are in progress), "spent"
        (the day's limit is reached), "unsettled" (the spending of other gateways is unknown) or "stopped" (the gateway
        stops).
        """
        self._requests.labels(task, path, outcome).inc()
        if usd:
            self._cost.labels(task, path).inc(usd)

    def count_pair(self, pair: Pair) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._pairs.labels(*labels).inc()
        for name, side in (("chosen", pair.chosen), ("shadow", pair.other)):
            self._pair_cost.labels(*labels, name).inc(side.cost_usd)
            self._pair_seconds.labels(*labels, name).inc(side.seconds)

    def count_scores(self, pair: Pair, chosen: float, other: float, regret: Regret) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._scored.labels(*labels).inc()
        self._quality.labels(*labels, "chosen").inc(chosen)
        self._quality.labels(*labels, "shadow").inc(other)
        self._regret_usd.labels(*labels).inc(regret.usd)
        self._regret_quality.labels(*labels).inc(regret.quality)
