"""One training run, from checked rows to an adapter's folder, within its time."""

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from pointsman_lora_server.training import adapter_files, batches, data, heldout, loop
from pointsman_lora_server.training.base import Base, Learner, open_base, open_learner
from pointsman_lora_server.training.batches import Batch, Example
from pointsman_lora_server.training.errors import DataError, TrainingError
from pointsman_lora_server.training.job import Job

SECONDS_TO_WRITE = 2.0
MOST_FOR_ANSWERS = 0.2  # of the whole time; what is not answered by then is left out
LIBRARIES = ("torch", "transformers", "peft", "safetensors")

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    training: tuple[Example, ...]
    measured: tuple[Example, ...]  # held-out rows for the loss
    asked: tuple[Example, ...]  # held-out rows that are answered at the end

    @property
    def longest(self) -> int:
        return max(len(example.ids) for example in (*self.training, *self.measured))


@dataclass(frozen=True, slots=True)
class Reserve:
    """Seconds that are not for training."""

    one_loss: float
    answers: float

    @property
    def after_training(self) -> float:
        return self.one_loss + self.answers + SECONDS_TO_WRITE

    @property
    def whole(self) -> float:
        return 2 * self.one_loss + self.after_training


def run(job: Job, rows: data.Split, started: float, tell: loop.Tell, warn: Warn) -> None:
    """`started`, on the monotonic clock, is when the time of the job began. Raises `TrainingError`."""
    ends_at = started + 60 * job.max_minutes
    base = open_base(job.base_model)
    material = _encode(job, rows, base, warn)
    learner = open_learner(base, job.recipe, job.threads, material.longest)
    planned = batches.plan(material.training, job.recipe.epochs, job.recipe.tokens_per_step, job.recipe.seed)
    pace = loop.measure(learner, planned)
    reserve = _reserve(job, material, pace)
    chosen = _fit(job, planned, pace, ends_at - time.monotonic() - reserve.whole, warn)
    tell(
        "start",
        name=job.name,
        rows=len(material.training),
        heldout_rows=len(rows.heldout),
        tokens=sum(len(example.ids) for batch in chosen for example in batch),
        steps=len(chosen),
        planned_steps=len(planned),
        eta_seconds=round(pace.of(chosen) + reserve.whole, 1),
    )
    losses: dict[str, float] = {}

    def measure_loss(when: str) -> None:
        if material.measured:
            losses[when] = heldout.loss(learner, material.measured, job.recipe.tokens_per_step)
            tell("heldout", when=when, loss=round(losses[when], 4))

    measure_loss("before")
    outcome = loop.train(
        learner,
        chosen,
        job.recipe.learning_rate,
        ends_at - reserve.after_training,
        lambda: measure_loss("half_way"),
        tell,
    )
    if outcome.stopped_early:
        warn(f"the machine slowed down: stopped after {outcome.steps} of {len(chosen)} steps, within --max-minutes")
    if not math.isfinite(outcome.loss):
        raise TrainingError("the loss is not a number: nothing is written; a lower --learning-rate is the usual cure")
    measure_loss("end")
    exact = _ask(learner, base, material.asked, ends_at - SECONDS_TO_WRITE, tell, warn)
    seconds = round(time.monotonic() - started, 1)
    report = _report(job, rows, material, outcome, losses, exact) | {"seconds": seconds, "libraries": _libraries()}
    config = learner.adapter_config() | {"base_model_name_or_path": job.base_model_name}
    adapter_files.write(job.out, learner.adapter_weights(), config, report)
    tell(
        "done",
        folder=str(job.out),
        seconds=round(time.monotonic() - started, 1),
        steps=outcome.steps,
        loss=round(outcome.loss, 4),
        heldout_loss=_rounded(losses.get("end")),
        exact_share=_rounded(exact),
    )


def _encode(job: Job, rows: data.Split, base: Base, warn: Warn) -> Material:
    training = batches.encode(rows.training, base.render, base.end_of_turn, job.recipe.most_tokens)
    held = batches.encode(rows.heldout, base.render, base.end_of_turn, job.recipe.most_tokens)
    for note in (*rows.notes, *training.notes, *held.notes):
        warn(note)
    if not training.examples:
        raise DataError(f"no training rows are left: all have more tokens than --most-tokens {job.recipe.most_tokens}")
    measured = heldout.choose(held.examples, heldout.MOST_ROWS, job.recipe.seed)
    asked = heldout.choose(held.examples, job.samples, job.recipe.seed)
    return Material(training.examples, tuple(measured), tuple(asked))


def _reserve(job: Job, material: Material, pace: loop.Pace) -> Reserve:
    answers = heldout.answers_seconds(material.asked, job.recipe.tokens_per_step, pace)
    return Reserve(
        heldout.loss_seconds(material.measured, job.recipe.tokens_per_step, pace),
        min(answers, MOST_FOR_ANSWERS * 60 * job.max_minutes),
    )


def _fit(job: Job, planned: Sequence[Batch], pace: loop.Pace, seconds: float, warn: Warn) -> list[Batch]:
    chosen = loop.fit(planned, pace, seconds)
    if not chosen:
        raise TrainingError(
            f"--max-minutes {job.max_minutes:g} leaves no time for a single step; give more, or lower --samples"
        )
    if len(chosen) < len(planned):
        epochs = job.recipe.epochs * len(chosen) / len(planned)
        warn(
            f"{len(planned)} steps do not fit into --max-minutes {job.max_minutes:g}: "
            f"training {len(chosen)} steps ({epochs:.1f} of {job.recipe.epochs} epochs)"
        )
    return chosen


def _ask(
    learner: Learner, base: Base, asked: Sequence[Example], ends_at: float, tell: loop.Tell, warn: Warn
) -> float | None:
    """The share of exact answers; None when nothing was asked."""
    exact: list[bool] = []
    for sample in heldout.answers(learner, base, asked, ends_at):
        question = sample.example.source.question
        tell("sample", text=question, expected=sample.expected, got=sample.got, exact=sample.exact)
        exact.append(sample.exact)
    if len(exact) < len(asked):
        warn(f"{len(exact)} of {len(asked)} samples were answered within --max-minutes")
    return sum(exact) / len(exact) if exact else None


def _report(
    job: Job,
    rows: data.Split,
    material: Material,
    outcome: loop.Outcome,
    losses: dict[str, float],
    exact: float | None,
) -> dict[str, object]:
    """No paths: the folder may travel."""
    return {
        "name": job.name,
        "base_model": job.base_model_name,
        "recipe": asdict(job.recipe),
        "data": {
            "file": job.data.name,
            "sha256": data.sha256(job.data),
            "rows": len(material.training),
            "heldout_file": job.heldout.name if job.heldout else None,
            "heldout_sha256": data.sha256(job.heldout) if job.heldout else None,
            "heldout_share": None if job.heldout else job.heldout_share,
            "heldout_rows": len(rows.heldout),
            "system_sha256": data.sha256(job.system) if job.system else None,
        },
        "steps": outcome.steps,
        "stopped_early": outcome.stopped_early,
        "tokens": outcome.tokens,
        "loss": _rounded(outcome.loss),
        "heldout_loss": {when: _rounded(loss) for when, loss in losses.items()},
        "exact_share": _rounded(exact),
    }


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
