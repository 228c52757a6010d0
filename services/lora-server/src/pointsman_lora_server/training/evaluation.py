"""Evaluates the adapter on held-out rows, compares it with few-shot prompts to the base model, and builds the training
report.
"""

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pointsman_lora_server.training import data, heldout_answers, scoring
from pointsman_lora_server.training.dataset import BaseFolder, Dataset
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.heldout_answers import AnsweredSample
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Emit, Evaluated, Objective, recent_loss
from pointsman_lora_server.training.options import STOP_ON_METRIC, TrainingOptions
from pointsman_lora_server.training.prompt_baseline import Question, plain_questions
from pointsman_lora_server.training.run_state import RunState
from pointsman_lora_server.training.time_budget import TimeBudget

MAX_SAMPLE_EVENTS = 8
"""The largest number of answers that the final evaluation reports one by one, as events "sample"."""

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "trl", "bitsandbytes")
MERGED_ONLY = "a DoRA adapter, which an engine cannot serve as one: serve the merged model"


@dataclass(frozen=True, slots=True)
class FinalScores:
    """The scores of the adapter after training, and of few-shot prompts to the base model on the same rows."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Name -> value: the scores of `scoring.score`, and "rows", the number of rows that were scored. The names begin
    with "heldout_" for the adapter and with "prompt_path_" for the few-shot prompts."""
    notes: tuple[str, ...] = ()
    """Warnings for the user about measurements for which there was too little time."""


class Evaluator:
    def __init__(
        self,
        options: TrainingOptions,
        base: BaseFolder,
        learner: Learner,
        objective: Objective,
        budget: TimeBudget,
        emit: Emit,
    ) -> None:
        self._options = options
        self._base = base
        self._learner = learner
        self._objective = objective
        self._budget = budget
        self._emit = emit

    def evaluate_during(self) -> Evaluated | None:
        """Measures the held-out loss and scores generated answers between two training steps; returns None if there are
        no held-out rows.

        Up to `TimeBudget.rows_during` rows are answered, fewer if answering takes much longer than estimated. The
        result's `value`, which is lowest for the best weights, is the loss. With --stop-on metric, it is the negative
        share of exact answers; equal shares are ordered by the F1 (see `scoring.score`), then by the loss.
        """
        measured = self._objective.measure()
        if not measured:
            return None
        few = plain_questions(self._budget.questions[: self._budget.rows_during])
        ends_at = time.monotonic() + self._max_seconds(few)
        answers = list(heldout_answers.generate_answers(self._learner, self._base, few, ends_at))
        scores = scoring.score([sample.scored for sample in answers])
        facts: dict[str, Any] = {**_rounded(measured), **_rounded(scores), "rows": len(answers)}
        if self._options.evaluation.stop_on != STOP_ON_METRIC:
            return Evaluated(measured["loss"], facts)
        metric = scores.get(scoring.EXACT, 0.0) + 1e-3 * _partial_score(scores)
        return Evaluated(-metric + 1e-6 * measured["loss"], facts)  # the loss decides between equal metrics

    def evaluate_at_end(self, ends_at: float) -> FinalScores:
        """Scores the trained adapter's answers, then those of few-shot prompts to the base model, until `ends_at` on
        the monotonic clock.

        If the time is too short, fewer rows are answered. If few-shot prompts answered any rows, the adapter is only
        scored on those rows. Some of the adapter's answers are reported as events "sample", and the scores of the
        few-shot prompts as an event "prompt_path".
        """
        questions, notes = self._budget.questions, []
        now = time.monotonic()
        # If there is too little time for both, each gets half of it.
        adapter_ends_at = max(ends_at - self._budget.few_shot_seconds, (now + ends_at) / 2)
        adapter = self._answer(plain_questions(questions), adapter_ends_at)
        for sample in adapter[:MAX_SAMPLE_EVENTS]:
            answer = sample.scored
            text = sample.question.example.source.question
            self._emit("sample", text=text, expected=answer.expected, got=answer.actual, exact=answer.is_exact)
        if len(adapter) < len(questions):
            notes.append(f"{len(adapter)} of {len(questions)} samples were answered within --max-minutes")
        prompting = self._answer_by_prompting([sample.question.example for sample in adapter], ends_at)
        in_both = {sample.question.example for sample in prompting}
        if prompting:
            adapter = [sample for sample in adapter if sample.question.example in in_both]
        elif adapter and self._budget.few_shot_questions:
            notes.append(
                "no time was left to measure what prompting alone reaches: more --max-minutes, fewer --samples"
            )
        return FinalScores({**_prefixed("heldout", adapter), **_prefixed("prompt_path", prompting)}, tuple(notes))

    def _answer_by_prompting(self, examples: Sequence[Example], ends_at: float) -> list[AnsweredSample]:
        few_shot = {question.example: question for question in self._budget.few_shot_questions}
        questions = [few_shot[example] for example in examples if example in few_shot]
        if not questions:
            return []
        with self._learner.without_adapter(True):
            answers = self._answer(questions, ends_at)
        scores = scoring.score([sample.scored for sample in answers])
        self._emit("prompt_path", shots=self._options.evaluation.shots, rows=len(answers), **_rounded(scores))
        return answers

    def _answer(self, questions: Sequence[Question], ends_at: float) -> list[AnsweredSample]:
        return list(heldout_answers.generate_answers(self._learner, self._base, questions, ends_at))

    def _max_seconds(self, questions: Sequence[Question]) -> float:
        """Returns how many seconds the answers of one evaluation may take: three times the estimate, at least 5."""
        return max(5.0, 3 * self._budget.answer_seconds(questions))


@dataclass(frozen=True, slots=True)
class RunResult:
    state: RunState
    ended_by: str
    """Why training ended: "whole" (all epochs are done), "time" (the time limit) or "patience" (no improvement); see
    `TrainingLoop.run`."""
    before: Mapping[str, float]
    """The measures of the training objective, such as "loss", on the held-out rows before the first step."""
    metrics: Mapping[str, float]
    """Name -> value of the held-out measures and scores of the weights that are written to the adapter's folder."""
    seconds: float
    """Duration of the run until its results were evaluated, without interruptions."""


def best_step(state: RunState) -> int:
    """Returns the number of the step whose weights evaluated best and are written; the last step if no weights were
    evaluated.
    """
    return state.counter.step if state.best_step is None else state.best_step


def training_report(
    options: TrainingOptions, base_digest: str, dataset: Dataset, result: RunResult
) -> dict[str, object]:
    """Returns the content of the report training.json. Files are named in it without their folders.

    `base_digest` is the SHA-256 of the base model's weights, or an empty string if it is unknown.
    """
    state, metrics = result.state, result.metrics
    losses = {"before": result.before.get("loss"), "end": metrics.get("heldout_loss")}
    return {
        "name": options.name,
        "base_model": options.base_model_name,
        "base_model_digest": base_digest,
        "parent": options.parent_name,
        "method": options.recipe.method,
        **({"served_as": MERGED_ONLY} if options.method.must_be_merged else {}),
        "recipe": asdict(options.recipe),
        "data": _data_facts(options, dataset),
        "steps": state.counter.step,
        "ended_by": result.ended_by,
        "epochs_done": round(options.recipe.epochs * state.counter.step / state.counter.max_steps, 2),
        "best_step": best_step(state),
        "tokens": state.tokens,
        "loss": round(recent_loss(state.losses), 4),
        "heldout_loss": {when: round(loss, 4) for when, loss in losses.items() if loss is not None},
        "exact_share": metrics.get("heldout_exact"),
        "evaluations": state.evaluations,
        "metrics": dict(metrics),
        "seconds": result.seconds,
        "libraries": _library_versions(),
    }


def evaluated_report(
    older: dict[str, object], options: TrainingOptions, dataset: Dataset, metrics: dict[str, float]
) -> dict[str, object]:
    """Returns a copy of the training report `older` with the new `metrics`, and with a new field "evaluated", which
    describes the held-out rows.

    All other fields keep their values, including "heldout_loss" and "exact_share" of the earlier evaluation.
    """
    facts = _data_facts(options, dataset)
    evaluated = {key: value for key, value in facts.items() if key.startswith("heldout")}
    return older | {"metrics": metrics, "evaluated": {**evaluated, "shots": options.evaluation.shots}}


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _data_facts(options: TrainingOptions, dataset: Dataset) -> dict[str, object]:
    return {
        "file": options.data.name,
        "sha256": data.sha256(options.data),
        "rows": len(dataset.training),
        "heldout_file": options.heldout.name if options.heldout else None,
        "heldout_sha256": data.sha256(options.heldout) if options.heldout else None,
        "heldout_share": None if options.heldout else options.heldout_share,
        "heldout_rows": dataset.report.heldout_rows,
        "system_sha256": data.sha256(options.system) if options.system else None,
    }


def _prefixed(prefix: str, samples: Iterable[AnsweredSample]) -> dict[str, float]:
    answers = [sample.scored for sample in samples]
    rows = {f"{prefix}_rows": float(len(answers))} if answers else {}
    return {f"{prefix}_{name}": round(value, 4) for name, value in scoring.score(answers).items()} | rows


def _partial_score(scores: dict[str, float]) -> float:
    return scores.get(scoring.JSON_F1, scores.get(scoring.WORD_F1, 0.0))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
