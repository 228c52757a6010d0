"""The shape of what tasks.yaml says of learning: what is kept of answers, and when a new adapter may take over."""

from typing import Annotated

from pydantic import Field, model_validator

from pointsman_gateway.config.strict import Strict

Share = Annotated[float, Field(ge=0, le=1)]


class LearningConfig(Strict):
    """Whose answers are kept, in Redis, for data sets to be made of."""

    tasks: tuple[str, ...] = Field(min_length=1, description="nothing is kept of others")
    share: float = Field(default=1.0, gt=0, le=1, description="of their answers, drawn by the decision's id")
    most: int = Field(default=20_000, ge=100, description="answers; the oldest go first")
    without_keys: bool = Field(
        default=False,
        description="where keys are off: whether all who ask have consented; tenants say so for themselves",
    )


class DatasetConfig(Strict):
    """What becomes a row."""

    least_rating: Share = Field(default=0.8, description="of an answer that is learnt; one that is rated lower is not")
    examples: bool = Field(default=True, description="whether the task's own examples that have an output are rows too")
    heldout_share: float = Field(default=0.2, gt=0, lt=1, description="of the rows, drawn by their text: never learnt")


class TrainingRecipe(Strict):
    """As `pointsman train` has them; what is not set is the trainer's own."""

    rank: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    tokens_per_step: int | None = Field(default=None, ge=16)
    max_minutes: float = Field(default=30.0, gt=0)
    seed: int = 7


class GatesConfig(Strict):
    """What a new version must be, on held-out rows, beside what answers now."""

    least_rows: int = Field(default=50, ge=1, description="to learn from, or pairs; fewer are not trained on")
    least_gain: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="which the lower end of the gain's interval must reach; below 0: no worse by more",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of that interval, two-sided")
    most_regressions: Share = Field(default=0.1, description="of the rows: those that are answered worse than now")


class CanaryConfig(Strict):
    """How a version that passed the gates is tried on traffic. The lora-server takes it back where it is worse."""

    weight: float = Field(default=0.1, gt=0, le=1, description="the share of users")
    least_requests: int = Field(default=50, ge=1, description="that it must have answered before it is promoted")
    most_minutes: float = Field(default=1440.0, gt=0, description="after which it is given up, with too few requests")


class StaleConfig(Strict):
    """Where a task goes while the documents of its adapter's topic are not those any more that it was taught."""

    after_changed_share: float = Field(gt=0, lt=1, description="of the documents: new, gone or rewritten since")
    path: str = Field(description="one that looks things up")


class FlywheelConfig(Strict):
    """How the task's adapter is made anew from what its answers taught."""

    student: str = Field(description="the path with the adapter: its alias is what moves")
    teacher: str = Field(description="the path whose good answers are learnt: its prompt is what goes into the weights")
    incumbent: str = Field(
        default="", description="what is to be beaten; empty: the student, or before there is one, the teacher"
    )
    heldout: str = Field(
        default="",
        description="a JSONL file, from the configuration folder, of rows that no traffic has touched; they decide",
    )
    data: DatasetConfig = DatasetConfig()
    training: TrainingRecipe = TrainingRecipe()
    gates: GatesConfig = GatesConfig()
    canary: CanaryConfig = CanaryConfig()

    @model_validator(mode="after")
    def _two_paths(self) -> "FlywheelConfig":
        if self.student == self.teacher:
            raise ValueError(f"student and teacher are both '{self.student}'; the teacher is the path that is prompted")
        return self
