"""How far an evaluation is: a bar on a terminal, else a line now and then."""

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli.eval.answers import Answer

_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


class EvaluationProgress:
    def __init__(self, console: Console, total: int, known: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("asking", total=total, completed=known, now="")
        self._total, self._done = total, known
        self._failures: Counter[str] = Counter()
        self._usd = 0.0
        self._said_at = time.monotonic()

    def __enter__(self) -> "EvaluationProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def came(self, answer: Answer) -> None:
        self._done += 1
        self._usd += answer.cost_usd + answer.judge_usd
        if not answer.is_ok:
            self._failures[answer.outcome] += 1
        self._bar.update(self._task, advance=1, now=self._now())
        if not self._console.is_terminal and time.monotonic() - self._said_at > _PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(f"{self._done} of {self._total}, {self._now()}", highlight=False)

    def _now(self) -> str:
        failed = "".join(f", {code} {count}" for code, count in self._failures.items())
        return f"{self._usd:.6f} dollars{failed}"
