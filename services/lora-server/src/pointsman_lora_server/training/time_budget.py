"""Divides the time of a training run between training steps and evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_lora_server.training import heldout_answers
from pointsman_lora_server.training.dataset import BaseFolder, Dataset
from pointsman_lora_server.training.deciding_rows import count_deciding_rows
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.options import TrainingOptions
from pointsman_lora_server.training.prompt_baseline import NearestRows, Question, few_shot_questions, plain_questions

WRITE_SECONDS = 2.0
MERGE_SECONDS = 8.0
MAX_ANSWER_SHARE = 0.3
"""The largest fraction of a run's time for generating answers after training, by the adapter and by few-shot prompts
together."""
MAX_EVALUATION_SHARE = 0.2
"""The largest fraction of a run's time for all evaluations during training, unless a single one takes longer."""
MAX_ROWS_DURING = 16
"""The largest number of held-out rows for which answers are generated in each evaluation during training."""


@dataclass(frozen=True, slots=True)
class TimeBudget:
    pace: Pace
    tokens_per_step: int
    questions: tuple[Example, ...]
    """Held-out rows for which answers are generated after training."""
    few_shot_questions: tuple[Question, ...]
    """Few-shot prompts to the base model for the rows in `questions`; empty if prompting is not measured."""
    rows_during: int
    """Number of rows of `questions`, from the first one, for which answers are generated in each evaluation during
    training."""
    evaluations: int
    """Planned number of evaluations during training."""
    loss_seconds: float
    """Estimated seconds to measure the held-out loss once."""
    write_seconds: float
    """Estimated seconds to write the adapter's folder and, if there is one, the merged model."""

    def answer_seconds(self, questions: Sequence[Question]) -> float:
        return heldout_answers.estimate_answer_seconds(questions, self.tokens_per_step, self.pace)

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
        """Returns the estimated seconds of a run without its training steps: evaluations before, during and after
        training, and writing files.
        """
        return self.loss_seconds + self.evaluations * self.evaluation_seconds + self.seconds_after_training


def divide_time(options: TrainingOptions, dataset: Dataset, base: BaseFolder, pace: Pace, seconds: float) -> TimeBudget:
    """Divides `seconds`, the time left after the model was loaded, between training steps and evaluations.

    Generating answers after training may take `MAX_ANSWER_SHARE` of the time, but a minimum of rows is always answered
    (see `count_deciding_rows`); with --evaluate-only, all rows are. The number of evaluations during training is
    limited by the options and by `MAX_EVALUATION_SHARE`, but is at least 1.
    """
    tokens = options.recipe.tokens_per_step
    rows = dataset.questions
    few_shot: tuple[Question, ...] = ()
    if options.evaluation.shots and rows:
        nearest = NearestRows(dataset.known)
        few_shot = few_shot_questions(rows, nearest, options.evaluation.shots, base.render, options.recipe.max_tokens)

    def answer_seconds(count: int) -> float:
        both = (plain_questions(rows[:count]), few_shot[:count])
        return sum(heldout_answers.estimate_answer_seconds(questions, tokens, pace) for questions in both)

    most = float("inf") if options.evaluate_only else MAX_ANSWER_SHARE * seconds
    count = count_deciding_rows(len(rows), answer_seconds, most)
    loss = heldout_answers.estimate_loss_seconds(dataset.heldout, tokens, pace)
    rows_during = min(count, MAX_ROWS_DURING)
    once = loss + heldout_answers.estimate_answer_seconds(plain_questions(rows[:rows_during]), tokens, pace)
    evaluations = max(1, int(MAX_EVALUATION_SHARE * seconds / once)) if once else 1
    return TimeBudget(
        pace=pace,
        tokens_per_step=tokens,
        questions=rows[:count],
        few_shot_questions=few_shot[:count],
        rows_during=rows_during,
        evaluations=min(options.evaluation.evaluations, evaluations) if once else 1,
        loss_seconds=loss,
        write_seconds=estimate_write_seconds(options),
    )


def estimate_write_seconds(options: TrainingOptions) -> float:
    is_merged = options.merged_out is not None or options.method.must_be_merged
    return WRITE_SECONDS + (MERGE_SECONDS if is_merged else 0.0)
