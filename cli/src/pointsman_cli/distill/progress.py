"""What a run tells while it goes: a line for each thing that is done, and now and then one for what is being done."""

import time
from collections.abc import Mapping

from rich.console import Console

from pointsman_cli.train.events import Evaluation, Message, Step, to_event

BETWEEN = 10.0
"""Seconds from one line on the same thing to the next."""


class Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, float] = {}

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int) -> None:
        self._now_and_then(what, f"{what}: {done} of {total}", at_once=done >= total)

    def training(self, kind: str, facts: Mapping[str, object]) -> None:
        """An event of a job."""
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
        if at_once or now - self._said.get(what, 0.0) >= BETWEEN:
            self._said[what] = now
            self.say(line)
