"""All that is advised, of one task and of a whole report."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pointsman_cli.advise.money import BreakEven, Terms, break_even
from pointsman_cli.advise.recommendation import Needs, Recommendation, recommend, rivals
from pointsman_cli.advise.sensitivity import Sensitivity, sensitivities
from pointsman_cli.advise.training import cost_of
from pointsman_cli.eval.report import Report, TaskReport


@dataclass(frozen=True, slots=True)
class TaskAdvice:
    task: str
    recommendation: Recommendation
    break_evens: tuple[BreakEven, ...]
    """Of every trained path against every path that is not."""
    rivals: tuple[str, str] | None
    """The best trained path and the best that is not, of which `sensitivities` are."""
    sensitivities: tuple[Sensitivity, ...]


def advise(report: Report, needs: Needs, terms: Terms) -> tuple[TaskAdvice, ...]:
    """Raises Misused where the cost of an adapter's training is not known."""
    priced = replace(terms, training=_by_alias(report, terms.training))
    return tuple(_task(task, needs, priced) for task in report.tasks)


def _task(task: TaskReport, needs: Needs, terms: Terms) -> TaskAdvice:
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    pairs = [(one, other) for one in scored if one.adapter for other in scored if not other.adapter]
    best = rivals(task)
    return TaskAdvice(
        task=task.task,
        recommendation=recommend(task, needs, terms),
        break_evens=tuple(break_even(one, other, terms) for one, other in pairs),
        rivals=(best[0].path, best[1].path) if best else None,
        sensitivities=sensitivities(*best, terms) if best else (),
    )


def _by_alias(report: Report, known: Mapping[str, float]) -> dict[str, float]:
    aliases = {path.adapter for task in report.tasks for path in task.paths if path.adapter}
    return {alias: cost_of(alias, known) for alias in sorted(aliases)}
