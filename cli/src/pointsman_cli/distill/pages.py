"""How a run stands, for people."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli.distill.state import RunState, StepState


def show(state: RunState) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    headline = f"{state.task}, run {state.run} ({state.method}): {state.outcome or 'under way'}"
    console.print(Text(headline, style="bold"))
    if state.reason:
        console.print(Text(f"  {state.reason}"))
    table = Table("step", "status", "ended", "what", box=None, pad_edge=False)
    for name, step in state.steps.items():
        table.add_row(*map(Text, (name, step.status, _time(step), "; ".join(_facts(step)))))
    console.print(table)


def _facts(step: StepState) -> Iterator[str]:
    """The short ones; all are in the file."""
    for name, value in step.facts.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            yield f"{name} {value}"


def _time(step: StepState) -> str:
    return datetime.fromtimestamp(step.ended, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if step.ended else ""
