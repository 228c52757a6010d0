"""The policy `best_value`: the cheapest path whose ratings and durations are good enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

from pointsman_servicekit.confidence_sequences import lower_limit, upper_limit
from pydantic import Field

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.extensions import Candidate, Plan, Policy, PolicyContext, Requirements
from pointsman_gateway.extensions.policy import MAX_EVALUATION_RATINGS
from pointsman_gateway.routing.exploration import explore
from pointsman_gateway.routing.wording import percent, quoted


class BestValueOptions(Strict):
    paths: tuple[str, ...] = Field(min_length=2)
    quality_floor: float = Field(
        ge=0, le=1, description="that the lower confidence bound of the mean rating must reach"
    )
    p95_seconds: float | None = Field(default=None, gt=0, description="upper limit, from arrival to end")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the bound, one-sided and at any time")
    exploration_rate: float = Field(
        default=0.05, ge=0, le=0.5, description="share of requests for paths whose quality is not known well enough"
    )
    min_samples: int = Field(default=20, ge=1, description="ratings, or answers for the p95; fewer do not count")
    max_evaluation_ratings: int = Field(
        default=MAX_EVALUATION_RATINGS,
        ge=0,
        description="ratings that the evaluated rows of a path count as at most; 0: evaluations do not count",
    )
    hysteresis: float = Field(
        default=0.1, ge=0, lt=1, description="share by which another path must be cheaper to take over"
    )


@dataclass(frozen=True, slots=True)
class Assessment:
    """Says whether one path may be chosen by the policy `best_value`, judged by its ratings, its cost and its
    durations.
    """

    name: str
    cost_usd: float
    """Expected dollars of one answer on the path."""
    bound: float
    """Lower confidence bound, 0 to 1, of the path's mean rating; it holds at all times at once, however often it is
    looked at."""
    has_samples: bool
    """Whether the path has at least `min_samples` ratings."""
    undecided: bool
    """Whether the path has enough ratings, but the quality floor lies between the confidence bounds of its mean
    rating."""
    slow: bool
    """Whether the 95th percentile of the path's durations is above the option `p95_seconds`."""
    of_evaluations: str
    """Text for an explanation: how many of the path's ratings are from evaluations; empty if none is."""
    fault: str
    """The reason why the path must not be chosen; empty if it is good enough and fast enough."""
    clear: bool
    """Whether the path is good and fast enough with a margin (the option `hysteresis`), so that a few more ratings
    would not change that."""

    @property
    def needs_exploration(self) -> bool:
        return not self.slow and (self.undecided or not self.has_samples)


class BestValue(Policy):
    """Chooses the cheapest path whose ratings and durations are good enough.

    Paths with too few ratings are explored: a share of the requests tries them. The path that was chosen last stays
    while it is good enough, unless another path is good enough with a margin and cheaper by the option `hysteresis`.
    """

    Options = BestValueOptions
    needs_costs = True
    uses_ratings = True

    @classmethod
    def summary(cls, options: BestValueOptions) -> str:
        limit = f", p95 up to {options.p95_seconds:g} s" if options.p95_seconds else ""
        return f"floor {options.quality_floor:.2f}{limit}"

    @classmethod
    def requirements(cls, options: BestValueOptions) -> Requirements:
        return Requirements(options.quality_floor, options.confidence, options.max_evaluation_ratings)

    def __init__(self, options: BestValueOptions) -> None:
        self._options = options
        self._incumbent = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return self._options.paths

    def plan(self, context: PolicyContext) -> Plan:
        """Returns the paths that may answer one request, the preferred one first, with an explanation of each.

        The object remembers the choice, and keeps to it for all later requests while that path is good enough (see the
        class). A choice that only replaces an unavailable path is not remembered, nor is exploration, which puts a path
        with too few ratings first for a share of the requests.
        """
        unavailable = context.unavailable(self.paths)
        assessments = self._assessments(context, unavailable)
        chosen = choose(self._options, assessments, self._incumbent)
        if self._incumbent not in unavailable:
            self._incumbent = chosen.paths[0]
        # Another purpose than a split's, so that the users on its small side are not those who explore as well.
        unexplored = {a.name: a.fault for a in assessments if a.needs_exploration}
        planned = explore(chosen, unexplored, self._options.exploration_rate, context.position("trial"))
        return replace(planned, explanations={**planned.explanations, **unavailable})

    def preview(self, context: PolicyContext) -> Plan:
        assessments = self._assessments(context, context.unavailable(self.paths))
        return choose(self._options, assessments, self._incumbent)

    def _assessments(self, context: PolicyContext, unavailable: Mapping[str, str]) -> list[Assessment]:
        """Returns the assessments of the available paths; if none is available, of all paths."""
        candidates = context.candidates(self.paths)
        return [
            assess(self._options, candidate)
            for candidate in candidates
            if candidate.name not in unavailable or len(unavailable) == len(candidates)
        ]


def assess(options: BestValueOptions, candidate: Candidate) -> Assessment:
    """Returns whether a path is good enough and fast enough for the policy's options, with the reason if it is not.

    Ratings from evaluations count up to the option's maximum. The 95th percentile of durations counts only with at
    least `min_samples` answers.
    """
    limit, margin = options.p95_seconds or float("inf"), options.hysteresis
    evidence = candidate.evidence.with_evaluations(options.max_evaluation_ratings)
    of_evaluations = f", {evidence.evaluated:.0f} from evaluations" if evidence.evaluated else ""
    # They hold at any time, since they are looked at for each request.
    bound = lower_limit(evidence.quality, evidence.ratings, 1 - options.confidence)
    upper_bound = upper_limit(evidence.quality, evidence.ratings, 1 - options.confidence)
    has_samples = evidence.ratings >= options.min_samples
    p95 = evidence.p95_seconds if evidence.answers >= options.min_samples else 0.0
    if p95 > limit:
        fault = f"p95 {p95:.1f} s: over {limit:.1f} s"
    else:
        fault = _quality_fault(options, evidence, of_evaluations, bound, upper_bound)
    return Assessment(
        name=candidate.name,
        cost_usd=candidate.cost_usd,
        bound=bound,
        has_samples=has_samples,
        undecided=has_samples and bound < options.quality_floor <= upper_bound,
        slow=p95 > limit,
        of_evaluations=of_evaluations,
        fault=fault,
        clear=bound >= options.quality_floor + margin * (1 - options.quality_floor) and p95 <= limit * (1 - margin),
    )


def _quality_fault(
    options: BestValueOptions, evidence: PathEvidence, of_evaluations: str, bound: float, upper_bound: float
) -> str:
    """Returns why a path's ratings do not suffice; empty if they do."""
    if bound >= options.quality_floor and evidence.ratings >= options.min_samples:
        return ""
    explored = f"exploration rate {percent(options.exploration_rate)}"
    if evidence.ratings < options.min_samples:
        return f"too few ratings ({evidence.ratings:.0f} of {options.min_samples}): {explored}"
    quality, quality_floor = f"quality {evidence.quality:.2f}", f"the floor {options.quality_floor:.2f}"
    ratings = f"{evidence.ratings:.0f} ratings{of_evaluations}"
    if upper_bound < options.quality_floor:
        return f"{quality}, at most {ceil(upper_bound * 100) / 100:.2f} of {ratings}: under {quality_floor}"
    return f"{quality}, {_at_least(bound)} of {ratings}: not known to reach {quality_floor}, {explored}"


def choose(options: BestValueOptions, assessments: Sequence[Assessment], incumbent: str) -> Plan:
    """Returns a plan of the paths that are good enough: the chosen one first, then the others by rising cost.

    The cheapest path is chosen. But `incumbent`, the path chosen last, stays if it is good enough, unless a path that
    is good enough with a margin (`clear`) is cheaper by the option `hysteresis`. If no path is good enough, the plan
    has one path only, the one that comes nearest to it by its ratings.
    """
    good = sorted((a for a in assessments if not a.fault), key=lambda a: a.cost_usd)
    if not good:
        return _nearest(options, assessments, incumbent)
    chosen = _cheapest(options, good, incumbent)
    explanations = {a.name: a.fault or _comparison(options, a, chosen) for a in assessments}
    order = (chosen.name, *(a.name for a in good if a is not chosen))
    return Plan(order, "policy:best_value", explanations, as_good=_as_good(assessments))


def _cheapest(options: BestValueOptions, good: Sequence[Assessment], incumbent: str) -> Assessment:
    """Returns the incumbent if it is in `good`, unless another path is `clear` and cheaper by the hysteresis; that one
    is returned then. If the incumbent is not in `good`, which is sorted by cost, returns the first.
    """
    current = next((a for a in good if a.name == incumbent), None)
    if current is None:
        return good[0]
    return next((a for a in good if a.clear and a.cost_usd < current.cost_usd * (1 - options.hysteresis)), current)


def _comparison(options: BestValueOptions, assessment: Assessment, chosen: Assessment) -> str:
    if assessment is chosen:
        return f"good enough ({_at_least(chosen.bound)}{chosen.of_evaluations}) at {quoted(chosen.cost_usd)}"
    against = f"{quoted(assessment.cost_usd)} against {quoted(chosen.cost_usd)}"
    if assessment.cost_usd >= chosen.cost_usd:
        return f"good enough, but dearer: {against}"
    if assessment.cost_usd >= chosen.cost_usd * (1 - options.hysteresis):
        return f"good enough, but not cheaper by {percent(options.hysteresis)}: {against}"
    return f"good enough and cheaper, but too near the limits to take over: {against}"


def _nearest(options: BestValueOptions, assessments: Sequence[Assessment], incumbent: str) -> Plan:
    """Returns the plan if every path has a fault. Its only path is the one with the highest bound among those that are
    not slow and have enough ratings, else the first that is not slow. If all are slow, slowness does not count. If the
    incumbent is not slow and has enough ratings, it stays unless the bound of another one is higher by at least the
    hysteresis times (1 - `quality_floor`).
    """
    fast = [a for a in assessments if not a.slow] or assessments
    chosen = max((a for a in fast if a.has_samples), key=lambda a: a.bound, default=fast[0])
    current = next((a for a in fast if a.name == incumbent and a.has_samples), chosen)
    if chosen.bound < current.bound + options.hysteresis * (1 - options.quality_floor):
        chosen = current
    why = "none is good enough, this one comes nearest" if chosen.has_samples else "none is known to be good enough yet"
    explanations = {a.name: a.fault for a in assessments} | {chosen.name: f"{why}; {chosen.fault}"}
    return Plan((chosen.name,), "policy:none_good_enough", explanations, as_good=_as_good(assessments) | {chosen.name})


def _as_good(assessments: Sequence[Assessment]) -> frozenset[str]:
    """Returns the paths that a conversation need not leave: those without a fault, and those that need exploration."""
    return frozenset([a.name for a in assessments if not a.fault or a.needs_exploration])


def _at_least(bound: float) -> str:
    return f"at least {floor(bound * 100) / 100:.2f}"  # rounded up, it could seem to reach a floor that it does not
