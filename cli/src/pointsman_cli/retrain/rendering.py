"""Prints the progress and the state of a run."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli.retrain.run_state import RunState, StepState
from pointsman_cli.train.progress import Evaluation, Message, Step, to_event

LINE_INTERVAL_SECONDS = 10.0
"""Minimum time between two progress lines on the same subject."""


class ProgressLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, float] = {}

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int) -> None:
        self._now_and_then(what, f"{what}: {done} of {total}", at_once=done >= total)

    def training(self, kind: str, facts: Mapping[str, object]) -> None:
        """Prints an event of a training job."""
        event = to_event(kind, dict(facts))
        if isinstance(event, Step):
            self._now_and_then("step", f"training: step {event.step} of {event.steps}, loss {event.loss:.3f}")
        elif isinstance(event, Evaluation):
            measured = ", ".join(f"{name} {value:.3f}" for name, value in event.metrics.items())
            self.say(f"training: {event.when}, held-out loss {event.loss or 0:.3f} {measured}".rstrip())
        elif isinstance(event, Message):
            self.say(f"training: {event.text}")

    def _now_and_then(self, what: str, line: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._said.get(what, 0.0) >= LINE_INTERVAL_SECONDS:
            self._said[what] = now
            self.say(line)


def print_run(state: RunState) -> None:
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
    """Yields the short facts; the state file holds all."""
    for name, value in step.facts.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            yield f"{name} {value}"


def _time(step: StepState) -> str:
    return datetime.fromtimestamp(step.ended, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if step.ended else ""
