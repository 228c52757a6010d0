"""Computes the verdicts on all tasks of a report, and how far each price may change before a verdict changes."""

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
"""The lower limit for the smallest difference of mean scores that matters, unless the user states a difference.

By default that difference is a share of the best score, and so would be 0 for a best score of 0.
"""
RETRIEVAL = "retrieval"
"""The name of the cost component for searches in the retriever."""
REQUEST = "request"
"""The name of the cost component for a model's charge per answer; a model without this price charges 0."""
CHARGES = (REQUEST, "image", "tool")
"""The names of the cost components for what a model charges in addition to tokens."""


@dataclass(frozen=True, slots=True)
class VerdictTerms:
    """The user's inputs for verdicts: requirements, costs, the score difference that matters, and statistical power."""

    requirements: Requirements
    terms: CostTerms
    """Costs and volumes; the keys of `CostTerms.training` are adapters' names, such as "triage"."""
    difference: float | None
    """The smallest difference of mean scores that matters; None: the default of `pointsman advise`."""
    power: float
    """The probability, such as 0.8, that `TaskVerdict.rows_needed` rows decide a verdict."""


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices in dollars from which the costs of an evaluation are computed: prices of each path's base model, and
    the price of a search.
    """

    paths: Mapping[str, PathIdentity]
    """The base model and adapter version of each path, by the path's name."""
    models: Mapping[str, ModelFacts]
    """The base models with their prices, by the model's name."""
    search_usd: float
    """Dollars for one search of the retriever."""

    def price_of(self, path: str, component: str) -> tuple[str, str, float] | None:
        """Returns the price of a cost component, such as "prompt", of a path: (base model, component, dollars).

        The base model is "" if the component is a search. Returns None if the model's prices do not include the
        component.
        """
        if component == RETRIEVAL:
            return "", RETRIEVAL, self.search_usd
        model = self.paths[path].model
        usd = self.usd(model, component)
        return None if usd is None else (model, component, usd)

    def usd(self, model: str, kind: str) -> float | None:
        """Returns the price in dollars of the cost component `kind` of a base model; None if it is unknown.

        If `model` is empty, returns the price of a search.
        """
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
    """Returns a verdict for each task of the report, in the report's order.

    Raises UsageError if the cost of training an adapter is missing, or two paths have no scored row in common.
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
        raise UsageError(
            f"{task.task}: two paths have no row with a score of both, so they cannot be compared"
        ) from error
    kinds = {path.path: VERDICTS[path.kind] for path in eligible}
    return replace(
        blank,
        verdict=kinds.get(found.path, NONE_GOOD_ENOUGH) if found.is_decided else "",
        path=found.path,
        rows_needed=found.rows_needed,
        standings=found.standings,
    )


def _left_out(task: TaskReport, needs: Requirements) -> Iterator[tuple[str, str]]:
    """Yields (path, reason) for paths that lack a score or a cost, or miss a requirement on form or latency."""
    for path in task.paths:
        if not path.score or not path.usd_per_1000:
            yield path.path, "has no answer with a score and a cost"
        elif missed := "; ".join(unmet(path, replace(needs, floor=None))):
            yield path.path, missed


def reprice(report: Report, old: PriceList, new: PriceList) -> Report:
    """Returns the report with the paths' costs at the prices `new` instead of `old`.

    The cost of a component does not change if its old price is 0, or its old or new price is unknown. `new` must have
    the paths and models of `old`.
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
    """Returns the path that the verdict on each task would name at the costs in the report, in the report's order.

    Which paths are good enough is taken from `verdicts`; only their order by cost is computed again. An entry is "" if
    no path is good enough, or it is undecided whether the first one in this order is.
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
    """Returns the range of each price within which no verdict changes if this price alone changes.

    There is a range for each price that is part of a path's cost, and for each model's charge per request. A range
    extends by whole percents of the price to either side, at most by the share `max_change` (0.2 is 20 %).
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
