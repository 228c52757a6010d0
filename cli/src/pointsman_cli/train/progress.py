"""Parses the trainer's events and shows them: a progress bar with loss, speed and time left, and the evaluations.

The events are JSON Lines from a local process, or gRPC messages from a job of the lora-server.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

METRICS = ("exact", "json_f1", "word_f1", "preference_accuracy")

_PLAIN_SECONDS = 10.0  # between two progress lines if there is no terminal
_MAX_LABELS = 12  # per field, on one line


@dataclass(frozen=True, slots=True)
class DataReport:
    """Statistics of the training data, reported before training starts."""

    rows: int
    heldout_rows: int
    left_out: Mapping[str, int]
    """The numbers of rows that are not trained on, by reason: "duplicate", "held_out_too", "too_long"."""
    tokens: Mapping[str, int]
    """The number of tokens per row: the "median", the "p95" (95th percentile) and the "longest"."""
    labels: Mapping[str, Mapping[str, int]]
    """The number of rows by label, for each JSON field whose values are labels.

    The field name "answer" stands for labels that are whole answers.
    """


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The prompt of one row of the training data, as the model reads it."""

    text: str
    row: str
    """The name of the file and the number of the line with the row."""


@dataclass(frozen=True, slots=True)
class Started:
    """An event: the training has started; `facts` are the fields that the trainer reports."""

    facts: Mapping[str, Any]
    """The trainer's options and other facts, by name."""


@dataclass(frozen=True, slots=True)
class TooShort:
    """An event: nothing is trained, since too little of the training fits into its time limit of `max_minutes`."""

    epochs: int
    """The planned number of epochs."""
    minutes: int
    """Minutes that all planned epochs would take."""
    max_minutes: float
    epochs_within: float
    """How many epochs fit into `max_minutes`; 0 if not even one optimizer step fits."""
    rows_within: int
    """How many rows could be trained on in all epochs within `max_minutes`; may be 0."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """An event: the training has done the optimizer step `step` of `steps`."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An event: the loss and metrics of the adapter on held-out rows, before, during or at the end of the training."""

    when: str  # "before", "during", "end"
    step: int
    loss: float | None  # None if it was not measured
    metrics: Mapping[str, float]  # by name, those of METRICS that were measured
    prompt_path: Mapping[str, float]
    """The metrics of prompting alone: the base model with examples in its prompt, without the adapter.

    Empty if they were not measured.
    """
    best: bool  # whether it is the best evaluation so far


@dataclass(frozen=True, slots=True)
class Sample:
    """An event: an answer of the adapter to a held-out row, as one line."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """An event: the training has ended after `seconds`, and the adapter is written to `folder`."""

    folder: Path
    seconds: float
    merged: Path | None
    """The folder of the merged model (base model with the adapter in its weights); None if none was written."""
    must_be_merged: bool
    """Whether an engine can serve only the merged model, not the adapter."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """An event: a training job of the lora-server has reached the state `state`, such as "running"."""

    state: str  # one of STATE_NAMES in `jobs`: "queued", "running", "succeeded", "failed", "cancelled"
    facts: Mapping[str, Any]  # all fields of the event


@dataclass(frozen=True, slots=True)
class Message:
    """A text to show: a warning, the metrics of prompting alone, or a line of the trainer that is no known event."""

    text: str


TrainerEvent = (
    DataReport
    | RenderedPrompt
    | Started
    | TooShort
    | TrainingStep
    | Evaluation
    | Sample
    | Done
    | StateChanged
    | Message
)


def parse_event(line: str) -> TrainerEvent:
    try:
        found = json.loads(line)
        kind = found.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return Message(line)
    return to_event(kind, found) or Message(line)


def to_event(kind: str, found: Mapping[str, Any]) -> TrainerEvent | None:
    """Converts an event of the trainer, given its kind (such as "step") and its fields.

    Returns None if the kind is unknown or a field is missing or invalid.

    Whole numbers in `found` may be floats, as in protobuf structs.
    """
    try:
        return _read(kind, found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _read(kind: str, found: Mapping[str, Any]) -> TrainerEvent | None:
    match kind:
        case "data":
            counts = (_integers(found["left_out"]), _integers(found["tokens"]))
            labels = {field: _integers(labels) for field, labels in found["labels"].items()}
            return DataReport(int(found["rows"]), int(found["heldout_rows"]), *counts, labels)
        case "prompt":
            return RenderedPrompt(str(found["text"]), str(found["row"]))
        case "start":
            return Started({key: _plain(value) for key, value in found.items()})
        case "too_short":
            limits = (float(found["max_minutes"]), float(found["epochs_within"]), int(found["rows_within"]))
            return TooShort(int(found["epochs"]), int(found["minutes"]), *limits)
        case "step":
            rates = (found["loss"], found["tokens_per_second"], found["eta_seconds"])
            return TrainingStep(int(found["step"]), int(found["steps"]), *map(float, rates))
        case "evaluation":
            return _evaluation(found)
        case "sample":
            return Sample(" | ".join(f"{key}: {' '.join(str(value).split())}" for key, value in found.items()))
        case "done":
            merged = Path(found["merged"]) if found.get("merged") else None
            return Done(
                Path(found["folder"]),
                float(found["seconds"]),
                merged,
                found.get("must_be_merged") is True,
                _floats(found.get("metrics", {})),
            )
        case "state":
            return StateChanged(str(found["state"]), found)
        case "warning":
            return Message(str(found["text"]))
        case "prompt_path":
            return Message("prompting alone: " + ", ".join(f"{key} {_plain(value)}" for key, value in found.items()))
    return None


def _evaluation(found: Mapping[str, Any]) -> Evaluation:
    theirs = {name: float(found[f"prompt_path_{name}"]) for name in METRICS if f"prompt_path_{name}" in found}
    return Evaluation(
        when=str(found["when"]),
        step=int(found["step"]),
        loss=float(found["loss"]) if "loss" in found else None,
        metrics={name: float(found[name]) for name in METRICS if name in found},
        prompt_path=theirs,
        best=bool(found.get("best", False)),
    )


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _integers(found: Mapping[str, Any]) -> dict[str, int]:
    return {str(key): int(value) for key, value in found.items()}


def _floats(found: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): float(value) for key, value in found.items()}


class TrainingProgress:
    """Shows the events of a training: a progress bar, or lines if the output is not a terminal."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None, now="starting")
        self._said_at = 0.0
        self.facts: Mapping[str, object] = {}
        self.too_short: TooShort | None = None
        self.done: Done | None = None
        self.state: StateChanged | None = None  # the latest state

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
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
            case TooShort():
                self.too_short = event  # the trainer's error says the same
            case TrainingStep():
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
        """Prints a line that the trainer has written to standard error."""
        self._say(line)

    def _show_data(self, data: DataReport) -> None:
        left_out = [f"{count} {reason.replace('_', ' ')}" for reason, count in data.left_out.items() if count]
        tokens = ", ".join(f"{what} {count}" for what, count in data.tokens.items())
        line = f"data: {data.rows} rows, {data.heldout_rows} held out; tokens a row: {tokens}"
        self._say(f"{line}; left out: {', '.join(left_out)}" if left_out else line)
        for field, labels in data.labels.items():
            shown = [f"{label} {count}" for label, count in list(labels.items())[:_MAX_LABELS]]
            rest = [f"and {len(labels) - _MAX_LABELS} more"] if len(labels) > _MAX_LABELS else []
            self._say(f"{field}: {', '.join([*shown, *rest])}")

    def _show_step(self, step: TrainingStep) -> None:
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
    """Formats the comparison of the adapter's metrics with those of prompting the base model."""
    pairs = ", ".join(
        f"{name} {value:.3g} against {prompting[name]:.3g}" for name, value in ours.items() if name in prompting
    )
    difference = ours.get("exact", 0.0) - prompting.get("exact", 0.0)
    verdict = "it beats prompting"
    if difference <= 0:
        found = "as good as" if difference == 0 else "worse than"
        verdict = f"{found} prompting: a guarded alias is not moved to it unless forced"
    return f"the trainer's few-shot prompt: {pairs}; {verdict} (`pointsman eval` compares with your own paths)"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
