"""The shape of `tasks.yaml`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pointsman_gateway.config.learning import FlywheelConfig, LearningConfig, StaleConfig
from pointsman_gateway.config.strict import Strict


class RuleConfig(Strict):
    """Takes a request for its task before the classifier is asked; all conditions that are set must hold."""

    name: str = Field(pattern=r"^[!-~]([ -~]{0,62}[!-~])?$", description="printable ASCII; HTTP headers say it")
    metadata: dict[str, str] = Field(default_factory=dict)
    regex: str = ""
    json_schema: bool | None = Field(default=None, description="whether the request asks for a JSON schema")

    @model_validator(mode="after")
    def _some_condition(self) -> "RuleConfig":
        if not self.metadata and not self.regex and self.json_schema is None:
            raise ValueError(f"rule '{self.name}' has no condition; known: metadata, regex, json_schema")
        return self


class BestValueConfig(Strict):
    """The cheapest of these paths that is known to be good enough and fast enough."""

    paths: tuple[str, ...] = Field(min_length=2)
    quality_floor: float = Field(
        ge=0, le=1, description="which the lower confidence bound of the mean rating must reach"
    )
    p95_seconds: float | None = Field(default=None, gt=0, description="arrival to end")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the bound, one-sided")
    trial_share: float = Field(default=0.05, ge=0, le=0.5, description="of requests, to paths without enough evidence")
    least_ratings: int = Field(default=20, ge=1, description="fewer are no evidence")
    hysteresis: float = Field(default=0.1, ge=0, lt=1, description="by how much another must be cheaper to take over")


class EscalateConfig(Strict):
    """The first path; where its answer does not satisfy the task's validators, once the next one."""

    paths: tuple[str, ...] = Field(min_length=2)
    streams_freely: tuple[str, ...] = Field(
        default=(), description="paths whose answers are streamed as they come, and so judged too late to be replaced"
    )


class PolicyConfig(Strict):
    """Exactly one of these."""

    fixed: str = ""
    split: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    best_value: BestValueConfig | None = None
    escalate: EscalateConfig | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "PolicyConfig":
        if sum(map(bool, (self.fixed, self.split, self.best_value, self.escalate))) != 1:
            raise ValueError(
                "a policy is one of fixed: PATH, split: {PATH: WEIGHT, ...}, best_value: {...} and escalate: {...}"
            )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """All that it names."""
        if self.best_value:
            return self.best_value.paths
        if self.escalate:
            return self.escalate.paths
        return tuple(self.split) or (self.fixed,)


class ValidatorConfig(Strict):
    """What an answer must be; exactly one of these."""

    complete: Literal[True] | None = Field(default=None, description="neither empty nor cut off at max_tokens")
    json_schema: dict[str, Any] | None = Field(default=None, description="it is JSON that satisfies this schema")
    regex: str | None = Field(default=None, description="is found in it")
    mean_logprob: float | None = Field(
        default=None, le=0, description="the mean log-probability of its tokens, at least"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "ValidatorConfig":
        if len(self.model_fields_set) != 1 or getattr(self, self.name) is None:
            raise ValueError(f"an entry names one validator, with a value; known: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))


class JudgeConfig(Strict):
    """A model that reads the request, the answer and what was expected, and says how good the answer is."""

    model: str = Field(description='as a request names it: "path:NAME" or a model\'s name')
    prompt: str = Field(default="", description="a file in prompts/: what counts; empty: the evaluation's own")


class MetricConfig(Strict):
    """How good an answer is, from 0 to 1, beside what was expected; exactly one of these."""

    exact: Literal[True] | None = Field(default=None, description="equal, as JSON or as text but for case and spaces")
    json_fields: Literal[True] | None = Field(default=None, description="F1 over the fields of a JSON answer")
    contains: Literal[True] | None = Field(default=None, description="the share of the facts that it states")
    regex: str | None = Field(default=None, min_length=1, description="what it finds last is what was expected")
    rouge_l: Literal[True] | None = Field(default=None, description="F1 over the longest common run of words")
    judge: JudgeConfig | None = Field(default=None, description="a model's word")
    entry_point: str | None = Field(
        default=None,
        pattern=r"^[\w./-]+:[A-Za-z_]\w*$",
        description="module:function or FILE.py:function, which the evaluation imports and the gateway never does",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "MetricConfig":
        if len(self.model_fields_set) != 1 or getattr(self, self.name) is None:
            raise ValueError(f"a task has one metric, with a value; known: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))


class ShadowConfig(Strict):
    """A share of the task's answered requests goes down another path as well; the caller never waits for that."""

    paths: tuple[str, ...] = Field(min_length=1, description="each request is shadowed by one other than its own")
    share: float = Field(default=0.05, gt=0, le=1, description="of the requests that an engine answered")
    dollars_per_day: float = Field(gt=0, description="of all gateways together, a UTC day; then no more till tomorrow")
    rate_by: Literal["right_answers", "validators"] = Field(
        default="right_answers",
        description="what tells how good both answers are: the task's metric, once feedback says the right answer "
        "(which takes journal.keep_text), or at once the task's validators (accepted 1, refused 0)",
    )


class TaskConfig(Strict):
    examples: str = Field(description="a JSONL file in the configuration folder")
    policy: PolicyConfig
    fallback: tuple[str, ...] = Field(default=(), description="paths to try, in order, before the first token")
    rules: tuple[RuleConfig, ...] = ()
    validators: tuple[ValidatorConfig, ...] = ()
    metric: MetricConfig | None = Field(default=None, description="how evaluations score this task's answers")
    stale: StaleConfig | None = Field(default=None, description="what is done once an adapter's topic has changed")
    flywheel: FlywheelConfig | None = Field(default=None, description="how `pointsman retrain` makes its adapter anew")
    shadow: ShadowConfig | None = Field(default=None, description="not set: every request is answered once")
    keep_rate: float | None = Field(default=None, gt=0.5, lt=1, description="of this task; not set: the classifier's")


class ClassifierConfig(Strict):
    keep_rate: float = Field(
        default=0.95, gt=0.5, lt=1, description="share of a task's own examples that must not be abstained from"
    )
    seed: int = 7
    stages: tuple[Literal["static", "encoder"], ...] = Field(
        default=("static", "encoder"),
        min_length=1,
        description="in this order; the second reads what the first is not sure of",
    )
    negatives: str = Field(default="", description="a JSONL file of texts that belong to no task")
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}$")], ...] = Field(
        default=("en",),
        description="of the examples, as ISO 639-1 codes: a text that is clearly in another goes to the default path; "
        "an empty list lets every language pass",
    )


class JournalConfig(Strict):
    """What is kept of decisions, in Redis."""

    most: int = Field(default=100_000, ge=100, description="decisions; the oldest go first")
    keep_text: bool = Field(default=False, description="the messages too; without them a replay cannot classify anew")
    most_feedback: int = Field(default=10_000, ge=100, description="decisions of which feedback is kept")
    most_undecided: int = Field(
        default=10_000, ge=100, description="receipts of requests without a decision: refused ones, and embeddings"
    )
    evidence_days: int = Field(default=14, ge=1, le=366, description="how far back a path's evidence reaches, UTC days")


class TasksFile(Strict):
    default_path: str = Field(description="where a request goes that fits no task")
    classifier: ClassifierConfig = ClassifierConfig()
    journal: JournalConfig = JournalConfig()
    learning: LearningConfig | None = Field(default=None, description="not set: no answer is kept")
    tasks: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], TaskConfig]
