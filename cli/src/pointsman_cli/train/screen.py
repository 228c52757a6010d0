"""A training while it runs: a bar with loss, speed and time left, and the held-out losses above it."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pointsman_cli.train.job import Done, Heldout, Remark, Sample, Started, Step, TrainerEvent

_PLAIN_SECONDS = 10.0  # between two lines on the steps where there is no terminal


class TrainingScreen:
    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None, now="starting")
        self._said_at = 0.0
        self.heldout_loss: float | None = None  # the last one, and so that of what is written
        self.facts: dict[str, object] = {}
        self.done: Done | None = None

    def __enter__(self) -> "TrainingScreen":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: TrainerEvent) -> None:
        match event:
            case Started(facts):
                self.facts = dict(facts)
                self._say("training: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
            case Step():
                self._show_step(event)
            case Heldout(loss, when):
                self.heldout_loss = loss
                self._say(f"held-out loss {loss:.4f} {when.replace('_', ' ')}".rstrip())
            case Sample(text) | Remark(text):
                self._say(text)
            case Done():
                self.done = event

    def remark(self, line: str) -> None:
        """Shows what the trainer wrote to standard error."""
        self._say(line)

    def _show_step(self, step: Step) -> None:
        now = f"loss {step.loss:.4f} · {step.tokens_per_second:.0f} tokens/s · {_duration(step.eta_seconds)} left"
        self._bar.update(self._task, completed=step.step, total=step.steps, now=now)
        if self._bar.disable and (step.step == step.steps or time.monotonic() - self._said_at >= _PLAIN_SECONDS):
            self._said_at = time.monotonic()
            self._say(f"step {step.step}/{step.steps} · {now}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
