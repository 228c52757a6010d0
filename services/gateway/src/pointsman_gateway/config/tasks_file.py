"""The schema of tasks.yaml: tasks with rules, policy and validators, the classifier, request log, and guardrails."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from pointsman_gateway.config.field_types import (
    MAX_GUARDRAIL_SECONDS,
    GuardrailCheck,
    Name,
    PolicyConfig,
    Strict,
    ValidatorConfig,
)
from pointsman_gateway.config.flywheel import FlywheelConfig, LearningConfig, StaleConfig
from pointsman_gateway.config.metric import JudgeConfig, MetricConfig
from pointsman_gateway.domain.conversation import ConversationMode
from pointsman_gateway.extensions import Hook

Mark = Annotated[str, Field(min_length=1, max_length=500)]

FILE_TAG, ROWS_TAG = "[file]", "[rows]"
"""The names of the two forms of `examples` in the `loc` of pydantic's errors; messages leave them out."""


class RuleConfig(Strict):
    """A rule that assigns a request to its task without the classifier, if all conditions that are set hold."""

    name: str = Field(pattern=r"^[!-~]([ -~]{0,62}[!-~])?$", description="printable ASCII, since HTTP headers carry it")
    metadata: dict[str, str] = Field(default_factory=dict)
    regex: str = ""
    json_schema: bool | None = Field(default=None, description="whether the request asks for a JSON schema")
    has: Literal["image", "audio", "video", "file"] | None = Field(default=None, description="media in the request")

    @model_validator(mode="after")
    def _has_a_condition(self) -> "RuleConfig":
        if not self.metadata and not self.regex and self.json_schema is None and self.has is None:
            raise ValueError(f"rule '{self.name}' has no condition; known: metadata, regex, json_schema, has")
        return self


class ShadowJudgeConfig(JudgeConfig):
    """A model that compares the two answers to one request, and scores them twice: each of them comes first once."""

    model: str = Field(description='as a request names it: "path:NAME" or a model\'s name; its price must be known')
    prompt: str = Field(default="", description="a file in prompts/ with the rubric; empty: a general one")
    usd_per_day: float = Field(gt=0, description="limit of the judge's own cost for all gateways, per UTC day")


class ShadowConfig(Strict):
    """Sends copies of a share of the task's requests to another path, to compare both answers; callers do not wait for
    it.
    """

    paths: tuple[str, ...] = Field(
        min_length=1, description="each request is shadowed on one of them, other than its own"
    )
    share: float = Field(default=0.05, gt=0, le=1, description="of the requests that an engine answered")
    usd_per_day: float = Field(gt=0, description="limit for all gateways together, per UTC day")
    rate_by: Literal["right_answers", "validators", "judge"] = Field(
        default="right_answers",
        description="how both answers are scored: right_answers: by the task's metric, once feedback states the right "
        "answer (needs request_log.store_messages); validators: at once, accepted 1, refused 0; judge: by a model",
    )
    judge: ShadowJudgeConfig | None = Field(default=None, description="for rate_by: judge")

    @model_validator(mode="after")
    def _judge_is_used(self) -> "ShadowConfig":
        if (self.rate_by == "judge") != (self.judge is not None):
            raise ValueError(
                "rate_by: judge and judge: {model: NAME, usd_per_day: DOLLARS} go together; write both or neither"
            )
        return self


class InlineExample(Strict):
    """An example within the configuration file. A string is short for an example with only this text."""

    text: str
    output: Any = Field(default=None, description="the right answer; an object is written as JSON")
    intent: str = Field(
        default="",
        description="what it is about within its task, for tasks of many kinds of requests; at least 1 character",
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, written: Any) -> Any:
        return {"text": written} if isinstance(written, str) else written


class TaskConfig(Strict):
    examples: Annotated[
        Annotated[str, Tag(FILE_TAG)] | Annotated[tuple[InlineExample, ...], Tag(ROWS_TAG)],
        Discriminator(lambda written: FILE_TAG if isinstance(written, str) else ROWS_TAG),
    ] = Field(description="a JSONL file in the configuration folder, or the examples themselves")
    policy: PolicyConfig
    fallback: tuple[str, ...] = Field(default=(), description="paths to try, in order, before the first token")
    rules: tuple[RuleConfig, ...] = ()
    validators: tuple[ValidatorConfig, ...] = ()
    metric: MetricConfig | None = Field(default=None, description="how evaluations score this task's answers")
    stale: StaleConfig | None = Field(
        default=None, description="where requests go once the adapter's documents have changed"
    )
    flywheel: FlywheelConfig | None = Field(
        default=None, description="how `pointsman retrain` makes a new version of its adapter"
    )
    shadow: ShadowConfig | None = Field(default=None, description="unset: no request is shadowed")
    target_coverage: float | None = Field(
        default=None, gt=0.5, lt=1, description="of this task; unset: the classifier's"
    )
    by_documents: bool = Field(
        default=True,
        description="whether a text that is like the documents that its paths search belongs to it, even if it is "
        "unlike its examples",
    )
    conversation: ConversationMode = Field(
        default="priced",
        description="whether a conversation keeps its path; priced: until a change pays; sticky: while it can be used; "
        "off: each request is decided by itself, also while tools are called",
    )
    pin_versions: bool = Field(
        default=True, description="whether a conversation stays on the adapter version with which it began"
    )


class WrapperConfig(Strict):
    """Text that a client of yours writes around its user's words, which the classifier does not read."""

    name: str = Field(pattern=r"^[\w-]{1,40}$", description="for the decision's notes")
    signs: tuple[Mark, ...] = Field(default=(), description="texts that are in each of its messages")
    drop: tuple[tuple[Mark, str], ...] = Field(
        default=(), description="what each span that is not the user's begins and ends with; \"\": the text's end"
    )
    user: tuple[tuple[Mark, str], ...] = Field(
        default=(), description="what the user's words begin and end with; the last such span counts"
    )

    @model_validator(mode="after")
    def _does_something(self) -> "WrapperConfig":
        if not self.drop and not self.user:
            raise ValueError("it needs 'drop' or 'user'")
        return self


class ClassifierConfig(Strict):
    target_coverage: float = Field(
        default=0.95, gt=0.5, lt=1, description="share of a task's own examples on which it must not abstain"
    )
    seed: int = 7
    stages: tuple[Literal["static", "encoder"], ...] = Field(
        default=("static", "encoder"),
        min_length=1,
        description="in this order; the second classifies what the first is not sure of",
    )
    out_of_scope: str = Field(default="", description="a JSONL file of texts that belong to no task")
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}$")], ...] = Field(
        default=("en",),
        description="of the examples, as ISO 639-1 codes; a text clearly in another language goes to the default path; "
        "an empty list accepts every language",
    )
    wrappers: tuple[WrapperConfig, ...] = Field(
        default=(), max_length=50, description="what your clients write around a user's words, before known clients'"
    )


class RequestLogConfig(Strict):
    """What the request log stores in Redis, and how many days of it count in the statistics of paths."""

    max_decisions: int = Field(default=100_000, ge=100, description="the oldest are deleted first")
    store_messages: bool = Field(
        default=False, description="store the messages too; without them a replay cannot classify again"
    )
    store_answers: bool = Field(
        default=False, description="store the texts of answers too, for the console; they may repeat what users wrote"
    )
    max_feedback: int = Field(default=10_000, ge=100, description="decisions whose feedback is stored")
    max_undecided: int = Field(
        default=10_000, ge=100, description="receipts of requests without a decision: rejected ones, and embeddings"
    )
    lookback_days: int = Field(default=14, ge=1, le=366, description="UTC days that count as evidence on a path")


class GuardrailConfig(Strict):
    """A check of texts by a guardrail: of requests, prompts or answers, as `hooks` says."""

    name: Name
    check: GuardrailCheck
    hooks: tuple[Hook, ...] = Field(
        default=("request", "response"),
        min_length=1,
        description="request: before classification; prompt: before the engine, with the path's prompt and passages; "
        "response: the answer, before it is sent",
    )
    action: Literal["block", "redact"] = Field(
        default="block", description="redact: each finding is replaced by its kind, as in [EMAIL_ADDRESS]"
    )
    fail: Literal["open", "closed"] = Field(
        default="closed", description="if the guardrail fails or times out; closed: an error; open: the text passes"
    )
    timeout_seconds: float = Field(default=1.0, gt=0, le=MAX_GUARDRAIL_SECONDS, description="timeout of one check")
    overlap_characters: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="number of an answer's last characters that wait to be checked with the next ones; findings "
        "up to this length are detected before any part of them is sent",
    )
    every_characters: int = Field(
        default=64, ge=1, le=16_384, description="new characters of a streamed answer before the next check"
    )


class TasksFile(Strict):
    default_path: str = Field(
        default="",
        description="for requests that fit no task; may be left out if there is only one path",
    )
    default_policy: PolicyConfig | None = Field(
        default=None, description="chooses the path of requests that fit no task; unset: they take the default path"
    )
    classifier: ClassifierConfig = ClassifierConfig()
    request_log: RequestLogConfig = RequestLogConfig()
    learning: LearningConfig | None = Field(default=None, description="unset: no answer is stored")
    guardrails: tuple[GuardrailConfig, ...] = Field(default=(), description="checks of every conversation")
    tasks: dict[Name, TaskConfig] = Field(
        default={}, description="at least two, or none: then every request for 'auto' takes the default path"
    )
