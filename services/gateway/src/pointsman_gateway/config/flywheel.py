"""The schema of the keys in tasks.yaml that say how a task's adapter is retrained from answers: `learning`, `flywheel`.

It also has the key `stale`: what is done once an adapter's documents have changed.
"""

from pydantic import Field, model_validator

from pointsman_gateway.config.field_types import Share, Strict


class LearningConfig(Strict):
    """Which answers are stored in Redis as training data."""

    tasks: tuple[str, ...] = Field(min_length=1, description="answers of other tasks are not stored")
    share: float = Field(default=1.0, gt=0, le=1, description="of their answers, sampled by the decision's id")
    max_answers: int = Field(default=20_000, ge=100, description="the oldest are deleted first")
    anonymous_consent: bool = Field(
        default=False,
        description="without authentication: whether all callers have consented; tenants consent for themselves",
    )


class DatasetConfig(Strict):
    """Which answers become rows of training data."""

    min_rating: Share = Field(default=0.8, description="of an answer; one that is rated lower is left out")
    examples: bool = Field(default=True, description="whether the task's own examples with an output are rows too")
    heldout_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the rows, sampled by their text: never trained on"
    )


class TrainingRecipe(Strict):
    """Options of `pointsman train`. Those without a default here have the default of the trainer."""

    rank: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    tokens_per_step: int | None = Field(default=None, ge=16)
    max_minutes: float = Field(default=30.0, gt=0)
    seed: int = 7


class GatesConfig(Strict):
    """How many rows a training needs, and how much better than the `incumbent` the new version must do on others."""

    min_rows: int = Field(default=50, ge=1, description="rows or pairs to train on; with fewer nothing is trained")
    min_gain: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="that the gain's lower confidence bound must reach; below 0 it may be worse by that much",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of that interval, two-sided")
    max_regressions: Share = Field(default=0.1, description="share of the rows that are answered worse than now")


class CanaryConfig(Strict):
    """How a new adapter version is tried on a share of the requests. The lora-server rolls it back if it is worse."""

    weight: float = Field(default=0.1, gt=0, le=1, description="the share of users")
    min_requests: int = Field(default=50, ge=1, description="that it must have answered before it is promoted")
    max_minutes: float = Field(
        default=1440.0, gt=0, description="after which a canary with too few requests is abandoned"
    )


class StaleConfig(Strict):
    """Which path answers the task's requests once too many of the documents on which its adapter was trained have
    changed.
    """

    after_changed_share: float = Field(
        gt=0, lt=1, description="share of the documents that were added, deleted or rewritten since the training"
    )
    path: str = Field(description="a path with retrieval")


class FlywheelConfig(Strict):
    """How `pointsman retrain` makes a new version of the task's adapter from accepted answers and corrections."""

    student: str = Field(description="the path with the adapter whose alias is moved")
    teacher: str = Field(description="the path whose good answers are the training data; its prompt is distilled")
    incumbent: str = Field(
        default="", description="the path to beat; empty: the student, or the teacher while there is no student"
    )
    eval_data: str = Field(
        default="",
        description="a JSONL file in the configuration folder, with rows that no traffic has touched; they decide",
    )
    data: DatasetConfig = DatasetConfig()
    training: TrainingRecipe = TrainingRecipe()
    gates: GatesConfig = GatesConfig()
    canary: CanaryConfig = CanaryConfig()

    @model_validator(mode="after")
    def _student_is_not_teacher(self) -> "FlywheelConfig":
        if self.student == self.teacher:
            raise ValueError(f"student and teacher are both '{self.student}'; the teacher is the path that is prompted")
        return self
