"""What an adapter is worth: its loss and its answers on held-out rows, beside those of prompting the base model."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_lora_server.training import heldout, scoring
from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import Example
from pointsman_lora_server.training.budget import TimeBudget
from pointsman_lora_server.training.heldout import AnsweredSample
from pointsman_lora_server.training.job import METRIC, TrainingOptions
from pointsman_lora_server.training.learner import Learner
from pointsman_lora_server.training.loop import Evaluated, Objective, Tell
from pointsman_lora_server.training.prompt_path import Question, plainly

MOST_TOLD = 8
"""Samples that are told one by one."""


@dataclass(frozen=True, slots=True)
class FinalScores:
    """Figures of the adapter and of the prompts that it has to beat, on the same rows."""

    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Evaluator:
    def __init__(
        self,
        job: TrainingOptions,
        base: BaseFolder,
        learner: Learner,
        objective: Objective,
        budget: TimeBudget,
        tell: Tell,
    ) -> None:
        self._job = job
        self._base = base
        self._learner = learner
        self._objective = objective
        self._budget = budget
        self._tell = tell

    def during(self) -> Evaluated | None:
        """The loss, and the metric on a few rows; None without held-out rows."""
        measured = self._objective.measure()
        if not measured:
            return None
        few = plainly(self._budget.asked[: self._budget.during])
        answers = list(heldout.answers(self._learner, self._base, few, time.monotonic() + self._patience(few)))
        scores = scoring.score([sample.answered for sample in answers])
        facts: dict[str, Any] = {**_rounded(measured), **_rounded(scores), "rows": len(answers)}
        metric = scores.get(scoring.EXACT, 0.0) + 1e-3 * _soft(scores)
        # Of equal metrics the lower loss is the better one.
        return Evaluated(-metric + 1e-6 * measured["loss"] if self._by_metric else measured["loss"], facts)

    def final(self, ends_at: float) -> FinalScores:
        """Answers of the adapter as it is now, then those of the prompt path, as far as there is time."""
        asked, notes = self._budget.asked, []
        now = time.monotonic()
        # Where the time is short for both, each has half of it.
        ours = self._answer(plainly(asked), max(ends_at - self._budget.prompt_path_seconds, (now + ends_at) / 2))
        for sample in ours[:MOST_TOLD]:
            answer = sample.answered
            text = sample.question.example.source.question
            self._tell("sample", text=text, expected=answer.expected, got=answer.got, exact=answer.exact)
        if len(ours) < len(asked):
            notes.append(f"{len(ours)} of {len(asked)} samples were answered within --max-minutes")
        theirs = self._prompt_path([sample.question.example for sample in ours], ends_at)
        both = {sample.question.example for sample in theirs}
        if theirs:
            ours = [sample for sample in ours if sample.question.example in both]
        elif ours and self._budget.prompted:
            notes.append(
                "no time was left to measure what prompting alone reaches: more --max-minutes, fewer --samples"
            )
        return FinalScores({**_named("heldout", ours), **_named("prompt_path", theirs)}, tuple(notes))

    def _prompt_path(self, examples: Sequence[Example], ends_at: float) -> list[AnsweredSample]:
        prompted = {question.example: question for question in self._budget.prompted}
        questions = [prompted[example] for example in examples if example in prompted]
        if not questions:
            return []
        with self._learner.without_adapter(True):
            answers = self._answer(questions, ends_at)
        scores = scoring.score([sample.answered for sample in answers])
        self._tell("prompt_path", shots=self._job.measuring.shots, rows=len(answers), **_rounded(scores))
        return answers

    def _answer(self, questions: Sequence[Question], ends_at: float) -> list[AnsweredSample]:
        return list(heldout.answers(self._learner, self._base, questions, ends_at))

    def _patience(self, questions: Sequence[Question]) -> float:
        """Seconds that the answers of one evaluation may take: three times what they should."""
        return max(5.0, 3 * self._budget.answering(questions))

    @property
    def _by_metric(self) -> bool:
        return self._job.measuring.stop_on == METRIC


def _named(whose: str, samples: Iterable[AnsweredSample]) -> dict[str, float]:
    answers = [sample.answered for sample in samples]
    rows = {f"{whose}_rows": float(len(answers))} if answers else {}
    return {f"{whose}_{name}": round(value, 4) for name, value in scoring.score(answers).items()} | rows


def _soft(scores: dict[str, float]) -> float:
    return scores.get(scoring.JSON_F1, scores.get(scoring.WORD_F1, 0.0))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
