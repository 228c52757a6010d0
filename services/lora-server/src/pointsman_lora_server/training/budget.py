"""How the time of a job is shared out: the more rows are answered, the fewer steps there are."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_lora_server.training import heldout
from pointsman_lora_server.training.base import BaseFolder
from pointsman_lora_server.training.batches import Example
from pointsman_lora_server.training.job import DORA, TrainingOptions
from pointsman_lora_server.training.loop import Pace
from pointsman_lora_server.training.material import Dataset
from pointsman_lora_server.training.prompt_path import Nearest, Question, ask, plainly

SECONDS_TO_WRITE = 2.0
SECONDS_TO_MERGE = 8.0
MOST_FOR_ANSWERS = 0.3  # of the whole time: the answers at the end, with and without the adapter
MOST_FOR_EVALUATIONS = 0.2  # of the whole time, all of them together
MOST_ASKED_DURING = 16


@dataclass(frozen=True, slots=True)
class TimeBudget:
    pace: Pace
    tokens_per_step: int
    asked: tuple[Example, ...]
    prompted: tuple[Question, ...]  # the same rows with answered examples before them
    during: int  # rows of `asked` that are answered in each evaluation
    evaluations: int
    loss_seconds: float
    write_seconds: float

    def answering(self, questions: Sequence[Question]) -> float:
        return heldout.answers_seconds(questions, self.tokens_per_step, self.pace)

    @property
    def evaluation_seconds(self) -> float:
        return self.loss_seconds + self.answering(plainly(self.asked[: self.during]))

    @property
    def prompt_path_seconds(self) -> float:
        return self.answering(self.prompted)

    @property
    def after_training(self) -> float:
        return self.answering(plainly(self.asked)) + self.prompt_path_seconds + self.write_seconds

    @property
    def beside_training(self) -> float:
        """The loss before the first step, the evaluations, and all that comes after the last one."""
        return self.loss_seconds + self.evaluations * self.evaluation_seconds + self.after_training


def share_out(job: TrainingOptions, material: Dataset, base: BaseFolder, pace: Pace) -> TimeBudget:
    """Rows are answered as they fit in; all of them where nothing is trained, for as long as there is time."""
    seconds, tokens = 60 * job.max_minutes, job.recipe.tokens_per_step
    asked = material.asked
    prompted: tuple[Question, ...] = ()
    if job.measuring.shots and asked:
        nearest = Nearest(material.known)
        prompted = ask(asked, nearest, job.measuring.shots, base.render, job.recipe.most_tokens)

    def answering(count: int) -> float:
        both = (plainly(asked[:count]), prompted[:count])
        return sum(heldout.answers_seconds(questions, tokens, pace) for questions in both)

    count = len(asked)
    while count and not job.evaluate_only and answering(count) > MOST_FOR_ANSWERS * seconds:
        count //= 2
    loss = heldout.loss_seconds(material.measured, tokens, pace)
    during = min(count, MOST_ASKED_DURING)
    once = loss + heldout.answers_seconds(plainly(asked[:during]), tokens, pace)
    evaluations = min(job.measuring.evaluations, max(1, int(MOST_FOR_EVALUATIONS * seconds / once))) if once else 1
    merged = job.merged_out is not None or job.recipe.method == DORA
    return TimeBudget(
        pace=pace,
        tokens_per_step=tokens,
        asked=asked[:count],
        prompted=prompted[:count],
        during=during,
        evaluations=evaluations,
        loss_seconds=loss,
        write_seconds=SECONDS_TO_WRITE + (SECONDS_TO_MERGE if merged else 0.0),
    )
