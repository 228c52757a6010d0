"""Shows a training: a progress bar with loss, speed and time left, and the evaluations above it."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pointsman_cli.train.events import (
    DataReport,
    Done,
    Evaluation,
    Message,
    RenderedPrompt,
    Sample,
    Started,
    StateChanged,
    Step,
    TrainerEvent,
)

_PLAIN_SECONDS = 10.0  # between two progress lines if there is no terminal
_MOST_LABELS = 12  # per field, on one line


class TrainingProgress:
    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None, now="starting")
        self._said_at = 0.0
        self.facts: Mapping[str, object] = {}
        self.done: Done | None = None
        self.state: StateChanged | None = None  # the latest state

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: TrainerEvent) -> None:
        match event:
            case DataReport():
                self._show_data(event)
            case RenderedPrompt(text, row):
                self._say(f"{row}, as the model reads it; what is learnt stands between ⟦ and ⟧:")
                self._say(text)
            case Started(facts):
                self.facts = dict(facts)
                self._say("training: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
            case Step():
                self._show_step(event)
            case Evaluation():
                self._show_evaluation(event)
            case Sample(text) | Message(text):
                self._say(text)
            case Done():
                self.done = event
            case StateChanged(state, facts):
                self.state = event
                more = [f"{key} {value}" for key, value in facts.items() if key in ("resumed", "version", "merged")]
                self._say(", ".join([state, *more]))

    def remark(self, line: str) -> None:
        """Prints a line of the trainer's standard error."""
        self._say(line)

    def _show_data(self, data: DataReport) -> None:
        left_out = [f"{count} {reason.replace('_', ' ')}" for reason, count in data.left_out.items() if count]
        tokens = ", ".join(f"{what} {count}" for what, count in data.tokens.items())
        line = f"data: {data.rows} rows, {data.heldout_rows} held out; tokens a row: {tokens}"
        self._say(f"{line}; left out: {', '.join(left_out)}" if left_out else line)
        for field, labels in data.labels.items():
            shown = [f"{label} {count}" for label, count in list(labels.items())[:_MOST_LABELS]]
            rest = [f"and {len(labels) - _MOST_LABELS} more"] if len(labels) > _MOST_LABELS else []
            self._say(f"{field}: {', '.join([*shown, *rest])}")

    def _show_step(self, step: Step) -> None:
        now = f"loss {step.loss:.4f} · {step.tokens_per_second:.0f} tokens/s · {_duration(step.eta_seconds)} left"
        self._bar.update(self._task, completed=step.step, total=step.steps, now=now)
        if self._bar.disable and (step.step == step.steps or time.monotonic() - self._said_at >= _PLAIN_SECONDS):
            self._said_at = time.monotonic()
            self._say(f"step {step.step}/{step.steps} · {now}")

    def _show_evaluation(self, found: Evaluation) -> None:
        figures = [f"held-out loss {found.loss:.4f}"] if found.loss is not None else []
        figures += [f"{name} {value:.3g}" for name, value in found.metrics.items()]
        when = {"during": f"at step {found.step}"}.get(found.when, found.when)
        self._say(" · ".join(figures) + f" {when}" + (", the best by now" if found.best else ""))
        if found.prompt_path:
            self._say(_compared(found.metrics, found.prompt_path))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _compared(ours: Mapping[str, float], prompting: Mapping[str, float]) -> str:
    """Formats the comparison with prompting, and its consequence."""
    pairs = ", ".join(
        f"{name} {value:.3g} against {prompting[name]:.3g}" for name, value in ours.items() if name in prompting
    )
    beats = ours.get("exact", 0.0) > prompting.get("exact", 0.0)
    verdict = (
        "it beats prompting" if beats else "no better than prompting: a guarded alias is not moved to it unless forced"
    )
    return f"beside prompting alone: {pairs}; {verdict}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
