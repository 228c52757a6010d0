"""The policy `best_value`: the cheapest path that is known to be good enough and fast enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, sqrt
from statistics import NormalDist

from pointsman_gateway.config.schema import BestValueConfig
from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.routing.policy import Plan

A_THOUSAND = 1000
"""Answers, whose price is easier to read than that of one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path, with what is known of it on the task."""

    name: str
    evidence: PathEvidence
    cost_usd: float
    """Of one answer."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What follows from a candidate's evidence."""

    name: str
    cost_usd: float
    bound: float
    """Its mean rating is at least that."""
    rated: bool
    """Often enough to say whether it is good."""
    slow: bool
    fault: str
    """Why it may not be chosen, in words; empty where it is good enough and fast enough."""
    clear: bool
    """Good and fast by a margin: a little more evidence would not undo it."""

    @property
    def untried(self) -> bool:
        return not self.rated and not self.slow


class BestValuePolicy:
    """Remembers which path each task has: another must be clearly better to take over."""

    def __init__(self) -> None:
        self._incumbents: dict[str, str] = {}

    def plan(
        self, task: str, terms: BestValueConfig, candidates: Sequence[Candidate], away: Mapping[str, str], where: float
    ) -> Plan:
        """`away`: why a path cannot be used now. `where`, 0 to 1: below the trial share, the request tries a path.

        An incumbent that is away is stood in for, not replaced: it is the incumbent again as soon as it is back.
        """
        incumbent = self._incumbents.get(task, "")
        standings = _standings(terms, candidates, away)
        wanted = weigh(terms, standings, incumbent)
        if incumbent not in away:
            self._incumbents[task] = wanted.paths[0]
        return with_trial(terms, standings, wanted, where)

    def leaning(
        self, task: str, terms: BestValueConfig, candidates: Sequence[Candidate], away: Mapping[str, str]
    ) -> Plan:
        """What `plan` would want without a trial; nothing is remembered of it."""
        return weigh(terms, _standings(terms, candidates, away), self._incumbents.get(task, ""))


def _standings(terms: BestValueConfig, candidates: Sequence[Candidate], away: Mapping[str, str]) -> list[Standing]:
    """Of those that can be used; of all, where none can."""
    return [standing(terms, c) for c in candidates if c.name not in away or len(away) == len(candidates)]


def standing(terms: BestValueConfig, candidate: Candidate) -> Standing:
    """What too few answers or ratings say, they do not say at all."""
    evidence, limit, margin = candidate.evidence, terms.p95_seconds or float("inf"), terms.hysteresis
    bound = lower_bound(evidence.quality, evidence.ratings, terms.confidence)
    rated = evidence.ratings >= terms.least_ratings
    p95 = evidence.p95_seconds if evidence.answers >= terms.least_ratings else 0.0
    if p95 > limit:
        fault = f"p95 {p95:.1f} s: over {limit:.1f} s"
    elif not rated:
        fault = f"no evidence ({evidence.ratings:.0f} of {terms.least_ratings} ratings): trial share " + _percent(
            terms.trial_share
        )
    elif bound < terms.quality_floor:
        fault = (
            f"quality {evidence.quality:.2f}, {_at_least(bound)} of {evidence.ratings:.0f} ratings: "
            f"under the floor {terms.quality_floor:.2f}"
        )
    else:
        fault = ""
    clear = bound >= terms.quality_floor + margin * (1 - terms.quality_floor) and p95 <= limit * (1 - margin)
    return Standing(candidate.name, candidate.cost_usd, bound, rated, p95 > limit, fault, clear)


def lower_bound(mean: float, count: float, confidence: float) -> float:
    """Of the true mean of ratings between 0 and 1, one-sided: the Wilson score interval's.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927), 209-212. It is made for ratings that are 0 or 1; those in between vary less
    around the same mean, so that for them it errs on the careful side.
    """
    if count <= 0:
        return 0.0
    z = NormalDist().inv_cdf(confidence)
    spread = z * sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return float(max(0.0, (mean + z * z / (2 * count) - spread) / (1 + z * z / count)))


def weigh(terms: BestValueConfig, standings: Sequence[Standing], incumbent: str) -> Plan:
    """The cheapest of those that are good and fast, the others of them in reserve; else what comes nearest."""
    good = sorted((s for s in standings if not s.fault), key=lambda s: s.cost_usd)
    if not good:
        return _nearest(terms, standings, incumbent)
    chosen = _cheapest(terms, good, incumbent)
    said = {s.name: s.fault or _compared(terms, s, chosen) for s in standings}
    order = (chosen.name, *(s.name for s in good if s is not chosen))
    return Plan(order, "policy:best_value", said)


def _cheapest(terms: BestValueConfig, good: Sequence[Standing], incumbent: str) -> Standing:
    """The incumbent, while it is good, unless another is clearly good and cheaper by the hysteresis."""
    sitting = next((s for s in good if s.name == incumbent), None)
    if sitting is None:
        return good[0]
    return next((s for s in good if s.clear and s.cost_usd < sitting.cost_usd * (1 - terms.hysteresis)), sitting)


def _compared(terms: BestValueConfig, standing: Standing, chosen: Standing) -> str:
    if standing is chosen:
        return f"good enough ({_at_least(chosen.bound)}) at {_price(chosen)}"
    against = f"{_price(standing)} against {_price(chosen)}"
    if standing.cost_usd >= chosen.cost_usd:
        return f"good enough, but dearer: {against}"
    if standing.cost_usd >= chosen.cost_usd * (1 - terms.hysteresis):
        return f"good enough, but not cheaper by {_percent(terms.hysteresis)}: {against}"
    return f"good enough and cheaper, but too near the limits to take over: {against}"


def _nearest(terms: BestValueConfig, standings: Sequence[Standing], incumbent: str) -> Plan:
    """The best of those that are rated, by their bounds; before there is one, the first of the configuration."""
    fast = [s for s in standings if not s.slow] or standings
    chosen = max((s for s in fast if s.rated), key=lambda s: s.bound, default=fast[0])
    sitting = next((s for s in fast if s.name == incumbent and s.rated), chosen)
    if chosen.bound < sitting.bound + terms.hysteresis * (1 - terms.quality_floor):
        chosen = sitting
    why = "none is good enough, this one comes nearest" if chosen.rated else "none is known to be good enough yet"
    said = {s.name: s.fault for s in standings} | {chosen.name: f"{why}; {chosen.fault}"}
    return Plan((chosen.name,), "policy:none_good_enough", said)


def with_trial(terms: BestValueConfig, standings: Sequence[Standing], wanted: Plan, where: float) -> Plan:
    """The plan, but for the trial share of requests, which the paths without evidence share evenly."""
    untried = [s for s in standings if s.untried and s.name != wanted.paths[0]]
    if where >= terms.trial_share or not untried:
        return wanted
    tried = untried[int(where / terms.trial_share * len(untried))]
    said = {**wanted.said, tried.name: f"on trial; {tried.fault}"}
    return replace(wanted, paths=(tried.name, *wanted.paths), reason="policy:trial", said=said)


def _at_least(bound: float) -> str:
    return f"at least {floor(bound * 100) / 100:.2f}"  # rounded up, it could reach a floor that it does not


def _price(standing: Standing) -> str:
    return f"${standing.cost_usd * A_THOUSAND:.4f} per 1,000"


def _percent(share: float) -> str:
    return f"{share * 100:g} %"
