"""Trains one adapter within a time limit: takes rows of data that have been checked, and writes the adapter's
folder.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pointsman_lora_server.training import adapter_folder, checkpoint, evaluation, loop, time_budget
from pointsman_lora_server.training.adapter_folder import AdapterFiles, with_parent_recipe
from pointsman_lora_server.training.batches import plan_batches
from pointsman_lora_server.training.checkpoint import Checkpoint
from pointsman_lora_server.training.dataset import (
    BaseFolder,
    Dataset,
    build_dataset,
    open_base,
    run_fingerprint,
    show_example,
)
from pointsman_lora_server.training.evaluation import Evaluator, RunResult
from pointsman_lora_server.training.exits import TrainingError
from pointsman_lora_server.training.learner import Learner, merge_and_save, open_learner, to_safetensors
from pointsman_lora_server.training.learning_rate import StepCounter
from pointsman_lora_server.training.loop import Batches, Emit, LoopOptions, Objective, Pace, TrainingLoop
from pointsman_lora_server.training.methods import TrainingRows, method_for_config
from pointsman_lora_server.training.options import TrainingOptions
from pointsman_lora_server.training.processes import Processes
from pointsman_lora_server.training.run_state import RunState
from pointsman_lora_server.training.time_budget import TimeBudget
from pointsman_lora_server.training.too_short import TooShort

Warn = Callable[[str], None]


def prepare(options: TrainingOptions, rows: TrainingRows, emit: Emit, warn: Warn) -> tuple[BaseFolder, Dataset]:
    """Opens the base model's folder, encodes the rows of a training run, and reports their statistics as the event
    "data".

    `warn` is called with each warning. Raises TrainingError if the base model's folder has no config.json or no chat
    template, and DataError if no training rows are left or a row cannot be encoded.
    """
    base = open_base(options.base_model)
    dataset = build_dataset(options, rows, base, warn)
    emit("data", **dataset.report.facts())
    for warning in dataset.report.warnings:
        warn(warning)
    return base, dataset


def show_first_example(base: BaseFolder, dataset: Dataset, emit: Emit) -> None:
    """Reports the first training row as the model reads it, as the event "prompt". The answer, which the model is
    trained to write, is between ⟦ and ⟧.
    """
    example = dataset.first_example
    text = show_example(base, example)
    emit("prompt", text=text, tokens=example.length, learnt_tokens=example.answer_length, row=example.source.where)


def train(options: TrainingOptions, rows: TrainingRows, started: float, emit: Emit, warn: Warn) -> None:
    """Trains an adapter, writes it into the folder `options.out`, and reports the progress by calling `emit`.

    Also writes the model with the adapter merged into it, if the options or the training method require this. `started`
    is the monotonic time from which `options.max_minutes` is counted. `warn` is called with each warning.

    Raises TrainingError if the data, the base model, the parent adapter or the checkpoint cannot be used; if no step or
    fewer epochs than `options.min_epochs` fit into the time (then after the event "too_short"); or if the latest losses
    are not finite.
    """
    options = with_parent_recipe(options)
    base, dataset = prepare(options, rows, emit, warn)
    _TrainingRun(options, base, dataset, started, emit, warn).run()


def evaluate_only(options: TrainingOptions, rows: TrainingRows, started: float, emit: Emit, warn: Warn) -> None:
    """Evaluates the adapter in the folder `options.out`, and updates the folder's training report and held-out samples.
    The weights are not changed.

    `started` is the monotonic time from which `options.max_minutes` is counted. Raises TrainingError if there is no
    adapter, the data or the base model cannot be used, or no rows are held out.
    """
    older = _read_report(options)
    method = method_for_config(_read_config(options))
    recipe = replace(options.recipe, method=method.name)
    options = with_parent_recipe(replace(options, parent=options.out, method=method, recipe=recipe))
    base, dataset = prepare(options, rows, emit, warn)
    if not dataset.questions:
        raise TrainingError("--evaluate-only needs held-out rows: name them with --eval-data")
    learner = open_learner(base, options, dataset.longest)
    objective = method.create_objective(learner, base, dataset.heldout, options)
    batches = plan_batches(dataset.training, 1, recipe.tokens_per_step, recipe.seed)
    pace, ends_at = loop.measure_pace(learner, objective, batches), started + 60 * options.max_minutes
    budget = time_budget.divide_time(options, dataset, base, pace, ends_at - time.monotonic())
    evaluator = Evaluator(options, base, learner, objective, budget, emit)
    metrics = {f"heldout_{name}": round(value, 4) for name, value in objective.measure().items()}
    scores = evaluator.evaluate_at_end(ends_at - time_budget.WRITE_SECONDS)
    for note in scores.notes:
        warn(note)
    metrics |= scores.metrics
    emit("evaluation", when="end", step=0, **_without_prefix(metrics))
    report = evaluation.evaluated_report(older, options, dataset, metrics)
    adapter_folder.write_report(options.out, report, dataset.samples)
    emit("done", folder=str(options.out), seconds=round(time.monotonic() - started, 1), steps=0, metrics=metrics)


class _TrainingRun:
    def __init__(
        self, options: TrainingOptions, base: BaseFolder, dataset: Dataset, started: float, emit: Emit, warn: Warn
    ) -> None:
        self._options = options
        self._processes = Processes.join(options.device, options.max_minutes, options.fsdp)
        self._base = base
        self._dataset = dataset
        self._started = self._processes.agree(started)
        self._emit = emit
        self._warn = warn
        self._fingerprint = run_fingerprint(options, base)
        self._saved_at = time.monotonic()

    def run(self) -> None:
        options, dataset, recipe = self._options, self._dataset, self._options.recipe
        earlier = self._load_checkpoint()
        choices = dict(earlier.choices) if earlier else {}
        learner = open_learner(self._base, options, dataset.longest, choices.get("bf16"), self._processes)
        whole = options.method.create_objective(learner, self._base, dataset.heldout, options)
        objective = self._processes.divide(whole, learner)
        batches = plan_batches(dataset.training, recipe.epochs, recipe.tokens_per_step, recipe.seed)
        pace = Pace(choices["pace"]) if earlier else self._agree_on_pace(learner, objective, batches)
        seconds = choices["seconds"] if earlier else self._ends_at - self._processes.now()
        alone = Pace(pace.seconds_per_token * self._processes.size)  # one process evaluates
        budget = time_budget.divide_time(options, dataset, self._base, alone, seconds)
        if not earlier:
            choices = {"seconds": seconds, **self._choose(learner, batches, pace, budget)}
        state = earlier.state if earlier else RunState(StepCounter(choices["steps"], len(batches)))
        if earlier:
            # What the kill cost, and the new start, do not count against the time limit.
            self._started = self._processes.now() - state.elapsed_seconds
        self._report_start(state, batches, choices, budget, is_resumed=earlier is not None)
        training = TrainingLoop(
            learner, objective, batches, state, self._loop_options(choices, budget), self._emit, self._processes
        )
        if earlier:
            _restore(training, earlier)
        evaluator = Evaluator(options, self._base, learner, whole, budget, self._emit)
        evaluate = partial(self._processes.first_computes, evaluator.evaluate_during)
        if not earlier:
            choices["before"] = self._measure_before(objective)
            if options.parent is not None:
                training.evaluate_start(evaluate)
        ended_by = training.run(evaluate, partial(self._save_checkpoint, choices))
        self._finish(training, evaluator, ended_by, choices["before"])
        self._processes.finish()

    def _agree_on_pace(self, learner: Learner, objective: Objective, batches: Batches) -> Pace:
        return self._processes.agree(loop.measure_pace(learner, objective, batches))

    def _load_checkpoint(self) -> Checkpoint | None:
        file = self._options.checkpoints.file
        return checkpoint.load(file, self._fingerprint) if file and self._options.checkpoints.resume else None

    def _choose(self, learner: Learner, batches: Batches, pace: Pace, budget: TimeBudget) -> dict[str, Any]:
        """Returns values that depend on the machine's speed at the start, and that a resumed run reuses: "bf16",
        "pace", "steps" and "steps_per_evaluation" (see `Checkpoint.choices`). Raises TrainingError if no step fits into
        the time, or fewer epochs than `options.min_epochs` and not all.
        """
        options = self._options
        seconds = self._ends_at - self._processes.now() - budget.seconds_besides_steps
        steps = loop.count_steps_within(batches, pace, seconds)
        epochs = options.recipe.epochs * steps / len(batches)
        if not steps or (steps < len(batches) and epochs < options.min_epochs):
            found = self._measure_missing_time(batches, steps, pace, budget)
            self._emit("too_short", **found.facts())
            raise TrainingError(found.message)
        if steps < len(batches):
            self._warn(
                f"{len(batches)} steps do not fit into --max-minutes {options.max_minutes:g}: training {steps} steps "
                f"({epochs:.1f} of {options.recipe.epochs} epochs)"
            )
        steps_per_evaluation = math.ceil(steps / budget.evaluations)
        return {
            "bf16": learner.bf16,
            "pace": pace.seconds_per_token,
            "steps": steps,
            "steps_per_evaluation": steps_per_evaluation,
        }

    def _measure_missing_time(self, batches: Batches, steps: int, pace: Pace, budget: TimeBudget) -> TooShort:
        """Returns how long training on all `batches` would take, and what fits into the time: the first `steps` of
        them.
        """
        needed = loop.seconds_with_reserve(batches, pace) + budget.seconds_besides_steps
        return TooShort.of(
            epochs=self._options.recipe.epochs,
            steps=len(batches),
            steps_within=steps,
            rows=len(self._dataset.training),
            seconds=time.monotonic() - self._started + needed,
            max_minutes=self._options.max_minutes,
        )

    @property
    def _ends_at(self) -> float:
        return self._started + 60 * self._options.max_minutes

    def _report_start(
        self, state: RunState, batches: Batches, choices: dict[str, Any], budget: TimeBudget, *, is_resumed: bool
    ) -> None:
        counter, dataset = state.counter, self._dataset
        left = batches[counter.step : counter.steps]
        self._emit(
            "start",
            name=self._options.name,
            method=self._options.recipe.method,
            rows=len(dataset.training),
            heldout_rows=dataset.report.heldout_rows,
            tokens=sum(row.length for batch in batches[: counter.steps] for row in batch),
            steps=counter.steps,
            planned_steps=len(batches),
            resumed_at=counter.step if is_resumed else None,
            eta_seconds=round(Pace(choices["pace"]).seconds_for(left) + budget.seconds_besides_steps, 1),
        )

    def _loop_options(self, choices: dict[str, Any], budget: TimeBudget) -> LoopOptions:
        return LoopOptions(
            self._options.recipe.learning_rate,
            self._ends_at - budget.seconds_after_training,
            choices["steps_per_evaluation"],
            budget.evaluation_seconds,
            self._options.evaluation.patience,
        )

    def _measure_before(self, objective: Objective) -> dict[str, float]:
        measured = {name: round(value, 4) for name, value in objective.measure().items()}
        if measured:
            self._emit("evaluation", when="before", step=0, **measured)
        return measured

    def _save_checkpoint(self, choices: dict[str, Any], training: TrainingLoop) -> None:
        checkpoints = self._options.checkpoints
        if (
            not self._processes.is_first
            or checkpoints.file is None
            or time.monotonic() - self._saved_at < checkpoints.seconds
        ):
            return
        training.state.elapsed_seconds = time.monotonic() - self._started
        content = Checkpoint(
            self._fingerprint,
            choices,
            training.state,
            training.learner.weights(),
            training.optimizer.state_dict(),
            checkpoint.random_state(),
            training.best,
        )
        if problem := checkpoint.save(checkpoints.file, content):
            self._warn(f"{checkpoints.file} cannot be written: {problem.strerror}; training continues")
        self._saved_at = time.monotonic()

    def _finish(self, training: TrainingLoop, evaluator: Evaluator, ended_by: str, before: dict[str, float]) -> None:
        options, state = self._options, training.state
        if ended_by == "time":
            self._warn(
                f"stopped after {state.counter.step} of {state.counter.max_steps} steps, to stay within --max-minutes"
            )
        if state.best_step == 0:
            self._warn("training did not improve on --init-from: the weights are those that it began with")
        if not math.isfinite(loop.recent_loss(state.losses)):
            raise TrainingError(
                "the loss is not a number: nothing is written; a lower --learning-rate is the usual cure"
            )
        if not self._processes.is_first and not self._processes.uses_fsdp:
            return
        training.use_best_weights()
        scores = evaluator.evaluate_at_end(self._ends_at - time_budget.estimate_write_seconds(options))
        if not self._processes.is_first:
            return
        for note in scores.notes:
            self._warn(note)
        metrics = _best_measured(state, before) | scores.metrics
        self._emit("evaluation", when="end", step=evaluation.best_step(state), **_without_prefix(metrics))
        seconds = round(time.monotonic() - self._started, 1)
        result = RunResult(state, ended_by, before, metrics, seconds)
        report = evaluation.training_report(options, self._base.digest(), self._dataset, result)
        merged = self._write(training.learner, report)
        self._emit(
            "done",
            folder=str(options.out),
            merged=str(merged) if merged else None,
            must_be_merged=options.method.must_be_merged or None,
            seconds=round(time.monotonic() - self._started, 1),
            steps=state.counter.step,
            of_steps=state.counter.max_steps,
            ended_by=ended_by,
            metrics=metrics,
        )

    def _write(self, learner: Learner, report: dict[str, object]) -> Path | None:
        """Writes the adapter's folder; returns the folder of the merged model, if one is written."""
        options, merge = self._options, partial(merge_and_save, learner, self._base)
        config = learner.adapter_config() | {"base_model_name_or_path": options.base_model_name}
        is_inside = options.method.must_be_merged and options.merged_out is None
        adapter = AdapterFiles(
            to_safetensors(learner.weights()), config, report, self._dataset.samples, merge if is_inside else None
        )
        adapter_folder.write_adapter(options.out, adapter)
        if is_inside:
            return options.out / adapter_folder.MERGED
        if options.merged_out is not None:
            adapter_folder.write_merged_model(options.merged_out, merge)
        return options.merged_out


def _restore(training: TrainingLoop, earlier: Checkpoint) -> None:
    training.learner.set_weights(earlier.weights)
    training.optimizer.load_state_dict(dict(earlier.optimizer))
    training.best = earlier.best
    checkpoint.set_random_state(earlier.random)


def _best_measured(state: RunState, before: dict[str, float]) -> dict[str, float]:
    """Returns the held-out measures of the best weights, and the loss before training, by their names in the training
    report.

    Returns an empty dictionary if nothing was evaluated during training.
    """
    best = next((each for each in state.evaluations if each["step"] == state.best_step), None)
    if best is None:
        return {}
    names = {"loss": "heldout_loss", "preference_accuracy": "heldout_preference_accuracy"}
    measured = {metric: float(best[name]) for name, metric in names.items() if name in best}
    return measured | ({"heldout_loss_before": before["loss"]} if "loss" in before else {})


def _without_prefix(metrics: dict[str, float]) -> dict[str, float]:
    """Returns the metrics with the prefix "heldout_" removed from their names, as in the events during training."""
    return {name.removeprefix("heldout_"): value for name, value in metrics.items()}


def _read_report(options: TrainingOptions) -> dict[str, object]:
    try:
        report = json.loads((options.out / adapter_folder.REPORT).read_text("utf-8"))
    except FileNotFoundError:
        return {"name": options.name, "base_model": options.base_model_name}
    except (OSError, ValueError) as error:
        raise TrainingError(f"{options.out / adapter_folder.REPORT} cannot be read: {error}") from error
    return dict(report)


def _read_config(options: TrainingOptions) -> dict[str, object]:
    try:
        return dict(json.loads((options.out / adapter_folder.CONFIG).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise TrainingError(f"--evaluate-only: there is no adapter in {options.out}: {error}") from error
