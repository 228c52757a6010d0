"""Divides the time of a run between training steps and evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_lora_server.training import heldout
from pointsman_lora_server.training.dataset import BaseFolder, Dataset
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.options import TrainingOptions
from pointsman_lora_server.training.prompt_baseline import NearestRows, Question, few_shot_questions, plain_questions

WRITE_SECONDS = 2.0
MERGE_SECONDS = 8.0
MAX_ANSWER_SHARE = 0.3
"""Fraction of the time for the answers at the end, with and without the adapter."""
MAX_EVALUATION_SHARE = 0.2
"""Fraction of the time for all evaluations during training."""
MAX_ROWS_DURING = 16
"""Rows that are answered in each evaluation during training."""


@dataclass(frozen=True, slots=True)
class TimeBudget:
    pace: Pace
    tokens_per_step: int
    questions: tuple[Example, ...]
    """Held-out rows that are answered at the end."""
    few_shot_questions: tuple[Question, ...]
    """The same rows, with answered examples before them."""
    rows_during: int
    """Number of `questions` that are answered in each evaluation during training."""
    evaluations: int
    loss_seconds: float
    write_seconds: float

    def answer_seconds(self, questions: Sequence[Question]) -> float:
        return heldout.estimate_answer_seconds(questions, self.tokens_per_step, self.pace)

    @property
    def evaluation_seconds(self) -> float:
        return self.loss_seconds + self.answer_seconds(plain_questions(self.questions[: self.rows_during]))

    @property
    def few_shot_seconds(self) -> float:
        return self.answer_seconds(self.few_shot_questions)

    @property
    def seconds_after_training(self) -> float:
        return self.answer_seconds(plain_questions(self.questions)) + self.few_shot_seconds + self.write_seconds

    @property
    def seconds_besides_steps(self) -> float:
        """Returns the seconds for everything but training steps: all evaluations, and what follows the last step."""
        return self.loss_seconds + self.evaluations * self.evaluation_seconds + self.seconds_after_training


def divide_time(options: TrainingOptions, dataset: Dataset, base: BaseFolder, pace: Pace, seconds: float) -> TimeBudget:
    """Divides `seconds`, the time left after the model was loaded, between training and evaluation.

    Evaluation answers as many rows as fit into its share, or all rows if nothing is trained.
    """
    tokens = options.recipe.tokens_per_step
    rows = dataset.questions
    few_shot: tuple[Question, ...] = ()
    if options.evaluation.shots and rows:
        nearest = NearestRows(dataset.known)
        few_shot = few_shot_questions(rows, nearest, options.evaluation.shots, base.render, options.recipe.max_tokens)

    def answer_seconds(count: int) -> float:
        both = (plain_questions(rows[:count]), few_shot[:count])
        return sum(heldout.estimate_answer_seconds(questions, tokens, pace) for questions in both)

    count = len(rows)
    while count and not options.evaluate_only and answer_seconds(count) > MAX_ANSWER_SHARE * seconds:
        count //= 2
    loss = heldout.estimate_loss_seconds(dataset.heldout, tokens, pace)
    rows_during = min(count, MAX_ROWS_DURING)
    once = loss + heldout.estimate_answer_seconds(plain_questions(rows[:rows_during]), tokens, pace)
    most = max(1, int(MAX_EVALUATION_SHARE * seconds / once)) if once else 1
    return TimeBudget(
        pace=pace,
        tokens_per_step=tokens,
        questions=rows[:count],
        few_shot_questions=few_shot[:count],
        rows_during=rows_during,
        evaluations=min(options.evaluation.evaluations, most) if once else 1,
        loss_seconds=loss,
        write_seconds=estimate_write_seconds(options),
    )


def estimate_write_seconds(options: TrainingOptions) -> float:
    is_merged = options.merged_out is not None or options.method.must_be_merged
    return WRITE_SECONDS + (MERGE_SECONDS if is_merged else 0.0)
