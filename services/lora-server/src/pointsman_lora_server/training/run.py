"""One training run, from checked rows to an adapter's folder, within its time."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pointsman_lora_server.training import adapter_files, batches, budget, checkpoint, loop, report
from pointsman_lora_server.training.adapter_config import as_parent
from pointsman_lora_server.training.base import BaseFolder, open_base
from pointsman_lora_server.training.budget import TimeBudget
from pointsman_lora_server.training.checkpoint import Checkpoint
from pointsman_lora_server.training.data import Split
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.evaluation import Evaluator
from pointsman_lora_server.training.job import DORA, DPO, TrainingOptions
from pointsman_lora_server.training.learner import Learner, as_safetensors, open_learner
from pointsman_lora_server.training.loop import LoopOptions, Objective, Pace, Tell, TrainingLoop
from pointsman_lora_server.training.material import Dataset, encode_rows, fingerprint
from pointsman_lora_server.training.merging import write_merged
from pointsman_lora_server.training.preferences import PreferenceSplit
from pointsman_lora_server.training.rendering import rendered
from pointsman_lora_server.training.schedule import Course, Record
from pointsman_lora_server.training.supervised import SftObjective

Warn = Callable[[str], None]


def prepare(job: TrainingOptions, rows: Split | PreferenceSplit, tell: Tell, warn: Warn) -> tuple[BaseFolder, Dataset]:
    """Examines the rows as the model will read them; nothing is computed yet."""
    base = open_base(job.base_model)
    material = encode_rows(job, rows, base, warn)
    tell("data", **material.examination.facts())
    for warning in material.examination.warnings:
        warn(warning)
    return base, material


def show(base: BaseFolder, material: Dataset, tell: Tell) -> None:
    """The first row as the model reads it; what is learnt of it stands between ⟦ and ⟧."""
    example = material.shown
    text = rendered(base, example)
    tell("prompt", text=text, tokens=example.length, learnt_tokens=example.learnt, row=example.source.where)


def run(job: TrainingOptions, rows: Split | PreferenceSplit, started: float, tell: Tell, warn: Warn) -> None:
    """`started`, on the monotonic clock, is when the time of the job began. Raises `TrainingError`."""
    job = as_parent(job)
    base, material = prepare(job, rows, tell, warn)
    _Run(job, base, material, started, tell, warn).run()


class _Run:
    def __init__(
        self, job: TrainingOptions, base: BaseFolder, material: Dataset, started: float, tell: Tell, warn: Warn
    ) -> None:
        self._job = job
        self._base = base
        self._material = material
        self._started = started
        self._tell = tell
        self._warn = warn
        self._fingerprint = fingerprint(job, base)
        self._kept_at = time.monotonic()

    def run(self) -> None:
        job, material = self._job, self._material
        found = self._earlier()
        choices = dict(found.choices) if found else {}
        learner = open_learner(self._base, job, material.longest, choices.get("bf16"))
        objective = objective_for(job, self._base, learner, material)
        planned = batches.plan(material.training, job.recipe.epochs, job.recipe.tokens_per_step, job.recipe.seed)
        pace = Pace(choices["pace"]) if found else loop.measure(learner, objective, planned)
        shares = budget.share_out(job, material, self._base, pace)
        if not found:
            choices = self._choose(learner, planned, pace, shares)
        record = found.record if found else Record(Course(choices["steps"]))
        if found:
            # What was lost with the kill, and the start anew, cost no part of the time.
            self._started = time.monotonic() - record.elapsed
        self._tell_start(record, planned, choices, shares, resumed=found is not None)
        terms = self._terms(choices, shares)
        looping = TrainingLoop(learner, objective, planned, record, terms, self._tell)
        self._restore(looping, found)
        evaluation = Evaluator(job, self._base, learner, objective, shares, self._tell)
        if not found:
            choices["before"] = self._measure_before(objective)
        why = looping.run(evaluation.during, partial(self._keep, choices))
        self._finish(looping, evaluation, why, choices["before"])

    def _earlier(self) -> Checkpoint | None:
        file = self._job.keeping.file
        return checkpoint.load(file, self._fingerprint) if file and self._job.keeping.resume else None

    def _choose(self, learner: Learner, planned: loop.Batches, pace: Pace, shares: TimeBudget) -> dict[str, Any]:
        """What this machine, now, decides; a run that is resumed keeps to it."""
        job = self._job
        steps = loop.fit(planned, pace, self._ends_at - time.monotonic() - shares.beside_training)
        if not steps:
            raise TrainingError(
                f"--max-minutes {job.max_minutes:g} leaves no time for a single step; give more, or lower --samples"
            )
        if steps < len(planned):
            self._warn(
                f"{len(planned)} steps do not fit into --max-minutes {job.max_minutes:g}: training {steps} steps "
                f"({job.recipe.epochs * steps / len(planned):.1f} of {job.recipe.epochs} epochs)"
            )
        every = math.ceil(steps / shares.evaluations)
        return {"bf16": learner.bf16, "pace": pace.seconds_per_token, "steps": steps, "evaluate_every": every}

    @property
    def _ends_at(self) -> float:
        return self._started + 60 * self._job.max_minutes

    def _tell_start(
        self, record: Record, planned: loop.Batches, choices: dict[str, Any], shares: TimeBudget, *, resumed: bool
    ) -> None:
        course, material = record.course, self._material
        left = planned[course.step : course.steps]
        self._tell(
            "start",
            name=self._job.name,
            method=self._job.recipe.method,
            rows=len(material.training),
            heldout_rows=material.examination.heldout_rows,
            tokens=sum(row.length for batch in planned[: course.steps] for row in batch),
            steps=course.steps,
            planned_steps=len(planned),
            resumed_at=course.step if resumed else None,
            eta_seconds=round(Pace(choices["pace"]).of(left) + shares.beside_training, 1),
        )

    def _terms(self, choices: dict[str, Any], shares: TimeBudget) -> LoopOptions:
        return LoopOptions(
            self._job.recipe.learning_rate,
            self._ends_at - shares.after_training,
            choices["evaluate_every"],
            shares.evaluation_seconds,
            self._job.measuring.patience,
        )

    def _restore(self, looping: TrainingLoop, found: Checkpoint | None) -> None:
        if found is not None:
            looping.learner.set_weights(found.weights)
            looping.optimizer.load_state_dict(dict(found.optimizer))
            looping.best = found.best
            checkpoint.set_random_state(found.random)

    def _measure_before(self, objective: Objective) -> dict[str, float]:
        measured = {name: round(value, 4) for name, value in objective.measure().items()}
        if measured:
            self._tell("evaluation", when="before", step=0, **measured)
        return measured

    def _keep(self, choices: dict[str, Any], looping: TrainingLoop) -> None:
        """Writes a checkpoint where it is time for one."""
        keeping = self._job.keeping
        if keeping.file is None or time.monotonic() - self._kept_at < keeping.seconds:
            return
        looping.record.elapsed = time.monotonic() - self._started
        kept = Checkpoint(
            self._fingerprint,
            choices,
            looping.record,
            looping.learner.weights(),
            looping.optimizer.state_dict(),
            checkpoint.random_state(),
            looping.best,
        )
        checkpoint.save(keeping.file, kept)
        self._kept_at = time.monotonic()

    def _finish(self, looping: TrainingLoop, evaluation: Evaluator, why: str, before: dict[str, float]) -> None:
        job, record = self._job, looping.record
        if why == "time":
            self._warn(
                f"the machine slowed down: stopped after {record.course.step} steps, to stay within --max-minutes"
            )
        if not math.isfinite(loop.recent_loss(record.losses)):
            raise TrainingError(
                "the loss is not a number: nothing is written; a lower --learning-rate is the usual cure"
            )
        looping.use_best()
        verdict = evaluation.final(self._ends_at - self._to_write())
        for note in verdict.notes:
            self._warn(note)
        metrics = _measured(record, before) | verdict.metrics
        self._tell("evaluation", when="end", step=record.best_step or record.course.step, **_told(metrics))
        seconds = round(time.monotonic() - self._started, 1)
        outcome = report.Outcome(record, why, before, metrics, seconds)
        written = report.training_report(job, self._base.digest(), self._material, outcome)
        merged = self._write(looping.learner, written)
        self._tell(
            "done",
            folder=str(job.out),
            merged=str(merged) if merged else None,
            seconds=round(time.monotonic() - self._started, 1),
            steps=record.course.step,
            ended_by=why,
            metrics=metrics,
        )

    def _to_write(self) -> float:
        merged = self._job.merged_out is not None or self._job.recipe.method == DORA
        return budget.SECONDS_TO_WRITE + (budget.SECONDS_TO_MERGE if merged else 0)

    def _write(self, learner: Learner, written: dict[str, object]) -> Path | None:
        """Where the merged model is, if there is one."""
        job, merge = self._job, partial(write_merged, learner, self._base)
        config = learner.adapter_config() | {"base_model_name_or_path": job.base_model_name}
        inside = job.recipe.method == DORA and job.merged_out is None
        adapter = adapter_files.Adapter(
            as_safetensors(learner.weights()), config, written, self._material.kept, merge if inside else None
        )
        adapter_files.write(job.out, adapter)
        if inside:
            return job.out / adapter_files.MERGED
        if job.merged_out is not None:
            adapter_files.write_model(job.merged_out, merge)
        return job.merged_out


def objective_for(job: TrainingOptions, base: BaseFolder, learner: Learner, material: Dataset) -> Objective:
    measured: Any = material.measured
    if job.recipe.method == DPO:
        # Imported here: TRL and what it brings along take seconds.
        from pointsman_lora_server.training.preferring import DpoObjective

        return DpoObjective(learner, base, measured, job.recipe, fresh=job.parent is None)
    return SftObjective(learner, measured, job.recipe.tokens_per_step)


def _measured(record: Record, before: dict[str, float]) -> dict[str, float]:
    """Of the best weights, as they were evaluated."""
    best = next((found for found in record.evaluations if found["step"] == record.best_step), None)
    if best is None:
        return {}
    names = {"loss": "heldout_loss", "preference_accuracy": "heldout_preference_accuracy"}
    found = {told: float(best[name]) for name, told in names.items() if name in best}
    return found | ({"heldout_loss_before": before["loss"]} if "loss" in before else {})


def _told(metrics: dict[str, float]) -> dict[str, float]:
    """As during training, with the prompt path's figures beside them."""
    return {name.removeprefix("heldout_"): value for name, value in metrics.items()}
