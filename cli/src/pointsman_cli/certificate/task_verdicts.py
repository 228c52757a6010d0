"""The verdicts on all tasks of a report, and how far prices may change until a verdict does."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pointsman_scoring.paired_limits import Standing

from pointsman_cli.advise.costs import CostTerms
from pointsman_cli.advise.recommendation import (
    MARGIN,
    NONE_GOOD_ENOUGH,
    VERDICTS,
    Requirements,
    advise,
    allowed_gap,
    by_alias,
    by_preference,
    unmet,
)
from pointsman_cli.certificate.statement import PathIdentity, PriceBound, TaskVerdict
from pointsman_cli.certificate.verdict import Candidate, Precision, decide
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalog import ModelFacts
from pointsman_cli.eval.report import EvaluatedPath, Report, TaskReport

MIN_MARGIN = 0.005
"""The smallest difference that matters is at least this, if none is stated: the best score may be 0."""
RETRIEVAL = "retrieval"
"""The cost component of searches."""
REQUEST = "request"
"""The cost component of the charge for each answer; a model without that price charges 0."""
CHARGES = (REQUEST, "image", "tool")
"""The cost components of what a model charges in addition to tokens."""


@dataclass(frozen=True, slots=True)
class VerdictTerms:
    """What verdicts depend on besides the report."""

    requirements: Requirements
    terms: CostTerms
    """With training costs by the adapter's name."""
    difference: float | None
    power: float


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices of the base models and of searches."""

    paths: Mapping[str, PathIdentity]
    """By name; each has its base model."""
    models: Mapping[str, ModelFacts]
    search_usd: float

    def price_of(self, path: str, component: str) -> tuple[str, str, float] | None:
        """Returns the model, the kind and the dollars of the price of a path's cost component.

        The model is empty for searches. Returns None if the component has no listed price, such as that of images.
        """
        if component == RETRIEVAL:
            return "", RETRIEVAL, self.search_usd
        model = self.paths[path].model
        usd = self.usd(model, component)
        return None if usd is None else (model, component, usd)

    def usd(self, model: str, kind: str) -> float | None:
        """Returns a price in dollars; None if it is unknown. The arguments are as `price_of` returns them."""
        if not model:
            return self.search_usd
        prices = self.models[model].prices if model in self.models else None
        return None if prices is None else prices.get(kind, 0.0 if kind == REQUEST else None)

    def with_price(self, model: str, kind: str, usd: float) -> "PriceList":
        if not model:
            return replace(self, search_usd=usd)
        facts = self.models[model]
        changed = replace(facts, prices={**(facts.prices or {}), kind: usd})
        return replace(self, models={**self.models, model: changed})


def task_verdicts(report: Report, given: VerdictTerms) -> tuple[TaskVerdict, ...]:
    """Returns a verdict for each task; raises UsageError if the cost of training an adapter is missing, or two
    paths have no scored row in common.
    """
    advice = advise(report, given.requirements, given.terms)
    priced = by_alias(report, given.terms)
    verdicts = []
    for task, advised in zip(report.tasks, advice, strict=True):
        verdict = _task_verdict(task, replace(given, terms=priced), 1 - report.confidence)
        verdicts.append(
            replace(verdict, recommended=advised.recommendation.path, break_evens=tuple(advised.break_evens))
        )
    return tuple(verdicts)


def _task_verdict(task: TaskReport, given: VerdictTerms, alpha: float) -> TaskVerdict:
    left_out = dict(_left_out(task, given.requirements))
    eligible = by_preference([path for path in task.paths if path.path not in left_out], given.terms)
    floor = given.requirements.floor
    margin = given.difference or MARGIN
    if given.difference is None and floor is None:
        margin = max(MIN_MARGIN, allowed_gap(max((path.mean for path in eligible), default=0.0)))
    blank = TaskVerdict(task.task, NONE_GOOD_ENOUGH, "", "", margin, 0, (), left_out, ())
    if not eligible:
        return blank
    candidates = [Candidate(path.path, path.row_scores) for path in eligible]
    try:
        found = decide(candidates, Precision(margin, alpha, given.power, floor))
    except ValueError as error:
        raise UsageError(f"{task.task}: two paths have no row in common that has scores of both: {error}") from error
    kinds = {path.path: VERDICTS[path.kind] for path in eligible}
    return replace(
        blank,
        verdict=kinds.get(found.path, NONE_GOOD_ENOUGH) if found.is_decided else "",
        path=found.path,
        rows_needed=found.rows_needed,
        standings=found.standings,
    )


def _left_out(task: TaskReport, needs: Requirements) -> Iterator[tuple[str, str]]:
    """Yields the paths without a score or a cost, and those that miss a requirement on form or latency as measured."""
    for path in task.paths:
        if not path.score or not path.usd_per_1000:
            yield path.path, "has no answer with a score and a cost"
        elif missed := "; ".join(unmet(path, replace(needs, floor=None))):
            yield path.path, missed


def reprice(report: Report, old: PriceList, new: PriceList) -> Report:
    """Returns the report as it would be at other prices; components whose old price is 0 or unknown stay as they are.

    `new` must have the models of `old`.
    """

    def factor(path: str, component: str) -> float:
        before, after = old.price_of(path, component), new.price_of(path, component)
        return after[2] / before[2] if before and after and before[2] else 1.0

    def repriced(path: EvaluatedPath) -> EvaluatedPath:
        costs = {part: usd * factor(path.path, part) for part, usd in path.usd_per_1000.items()}
        return replace(path, usd_per_1000=costs)

    tasks = (replace(task, paths=tuple(map(repriced, task.paths))) for task in report.tasks)
    return replace(report, tasks=tuple(tasks))


def named_paths(report: Report, verdicts: Sequence[TaskVerdict], given: VerdictTerms) -> list[str]:
    """Returns the path that each task's verdict names at the report's costs, if the scores are those of `verdicts`.

    The text is empty for a task whose scores do not decide which of its paths is named.
    """
    terms, named = by_alias(report, given.terms), []
    for task, verdict in zip(report.tasks, verdicts, strict=True):
        standings = {each.path: each.standing for each in verdict.standings}
        order = by_preference([path for path in task.paths if path.path in standings], terms)
        first = next((path.path for path in order if standings[path.path] is not Standing.WORSE), "")
        named.append(first if first and standings[first] is Standing.CLOSE else "")
    return named


def price_bounds(
    report: Report, prices: PriceList, given: VerdictTerms, verdicts: Sequence[TaskVerdict], max_change: float
) -> tuple[PriceBound, ...]:
    """Returns the range of each price within which no verdict changes if this price alone does.

    Prices are those that the paths' costs contain, and the charge for each request. A range is at most `max_change` of
    the price to either side, and ends at a whole percent of the price.
    """
    used = dict.fromkeys(
        price
        for task in report.tasks
        for path in task.paths
        for component in (*path.usd_per_1000, REQUEST)
        if (price := prices.price_of(path.path, component))
    )
    named = named_paths(report, verdicts, given)

    def furthest(model: str, kind: str, usd: float, sign: int) -> float:
        found = usd
        for percent in range(1, math.floor(100 * max_change + 1e-9) + 1):
            changed = usd * (1 + sign * percent / 100)
            if named_paths(reprice(report, prices, prices.with_price(model, kind, changed)), verdicts, given) != named:
                break
            found = changed
        return found

    return tuple(
        PriceBound(model, kind, usd, furthest(model, kind, usd, -1), furthest(model, kind, usd, 1))
        for model, kind, usd in used
    )
