"""Advice in the terminal."""

from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.advise.advice import TaskAdvice
from pointsman_cli.advise.money import BreakEven
from pointsman_cli.advise.sensitivity import FACTORS


def show(console: Console, advice: Iterable[TaskAdvice]) -> None:
    for task in advice:
        console.print(Group(*_task(task)))


def _task(advice: TaskAdvice) -> Iterator[RenderableType]:
    said = advice.recommendation
    yield Text()
    yield Text(f"{advice.task}: {said.verdict}" + (f" ({said.path})" if said.path else ""), style="bold")
    for reason in said.reasons:
        yield Text(f"  {reason}")
    for trained in dict.fromkeys(each.trained for each in advice.break_evens):
        yield Text()
        yield _break_evens(trained, [each for each in advice.break_evens if each.trained == trained])
    if advice.rivals:
        yield Text()
        yield Text(
            f"requests until {advice.rivals[0]} pays against {advice.rivals[1]}, were a price other", style="dim"
        )
        yield _sensitivities(advice)


def _break_evens(trained: str, found: Iterable[BreakEven]) -> Table:
    table = _table(
        f"{trained} pays against", "saves $\nper 1,000", "from\nrequests", "from right\nanswers", "from\na month"
    )
    for each in found:
        table.add_row(
            Text(each.untrained),
            f"{each.saving_per_1000:.4f}",
            volume(each.requests),
            volume(each.right_answers),
            volume(each.requests_a_month),
        )
    return table


def _sensitivities(advice: TaskAdvice) -> Table:
    table = _table("price", *(f"× {factor:g}" for factor in FACTORS))
    for each in advice.sensitivities:
        table.add_row(each.price, *map(volume, each.requests))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold", vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def volume(requests: float | None) -> str:
    return "never" if requests is None else f"{requests:,.0f}"
