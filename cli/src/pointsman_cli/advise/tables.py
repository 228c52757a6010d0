"""Prints the advice of `pointsman advise REPORT` as tables."""

from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.text import Text

from pointsman_cli.advise.costs import FACTORS, BreakEven
from pointsman_cli.advise.recommendation import TaskAdvice
from pointsman_cli.tables import FittingTable


def print_advice(console: Console, advice: Iterable[TaskAdvice]) -> None:
    for task in advice:
        console.print(Group(*_task_lines(task)), crop=False)


def _task_lines(advice: TaskAdvice) -> Iterator[RenderableType]:
    best = advice.recommendation
    yield Text()
    yield Text(f"{advice.task}: {best.verdict}" + (f" ({best.path})" if best.path else ""), style="bold")
    for reason in best.reasons:
        yield Text(f"  {reason}")
    for trained in dict.fromkeys(each.trained for each in advice.break_evens):
        yield Text()
        yield _break_evens(trained, [each for each in advice.break_evens if each.trained == trained])
    if advice.compared_pair:
        trained, untrained = advice.compared_pair
        yield Text()
        yield Text(f"requests until {trained} pays off against {untrained}, if one price changes", style="dim")
        yield _sensitivities(advice)


def _break_evens(trained: str, found: Iterable[BreakEven]) -> FittingTable:
    columns = ("score difference", "saves $ per 1,000", "from requests", "from right answers", "from a month")
    rows = [
        (
            each.untrained,
            f"{each.score_difference:+.3f}",
            f"{each.saving_per_1000:.4f}",
            volume_text(each.requests),
            volume_text(each.right_answers),
            volume_text(each.requests_a_month),
        )
        for each in found
    ]
    return FittingTable((f"{trained} pays against", *columns), rows, right=columns)


def _sensitivities(advice: TaskAdvice) -> FittingTable:
    factors = [f"× {factor:g}" for factor in FACTORS]
    rows = [(each.price, *map(volume_text, each.requests)) for each in advice.sensitivities]
    return FittingTable(("price", *factors), rows, right=factors)


def volume_text(requests: float | None) -> str:
    if requests is None:
        return "never"
    return f"{requests:,.0f}" if requests else "at once"
