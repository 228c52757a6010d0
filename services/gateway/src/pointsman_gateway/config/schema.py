"""The shape of `models.yaml`, `paths.yaml` and `tasks.yaml`; unknown keys are refused."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Terms = TypeVar("Terms", bound=Strict)


def _over(own: Terms | None, default: Terms) -> Terms:
    """`own`, with what it leaves out taken from `default`."""
    return default if own is None else default.model_copy(update=own.model_dump(exclude_unset=True))


# -- models.yaml


class Prices(Strict):
    """Dollars for a million tokens. There is no default: an unknown price is an error, never 0."""

    prompt: float = Field(ge=0)
    cached: float = Field(ge=0)
    completion: float = Field(ge=0)


class ModelConfig(Strict):
    context_window: int = Field(ge=1, description="tokens, prompt and answer together")
    prices: Prices


class Timeouts(Strict):
    """Seconds that an engine gets for each part of an answer; the request's deadline stands over all of them."""

    connect: float = Field(default=2.0, gt=0, le=60)
    first_token: float = Field(default=60.0, gt=0, le=3600, description="from asking to the first token")
    gap: float = Field(default=60.0, gt=0, le=3600, description="between two pieces of the answer")


class BreakerTerms(Strict):
    """When an engine is left alone, and for how long."""

    enabled: bool = True
    failures: int = Field(default=5, ge=1, le=1000, description="in a row, that open it")
    rate: float = Field(default=0.5, gt=0, le=1, description="share of failures within `window` that opens it")
    window: float = Field(default=10.0, gt=0, le=600, description="seconds")
    least: int = Field(default=20, ge=1, description="answers within `window`; of fewer the share tells nothing")
    rest: float = Field(default=5.0, gt=0, le=600, description="seconds until one request tries it; doubled each time")
    longest_rest: float = Field(default=30.0, gt=0, le=3600, description="seconds; what doubling leads to")


class RetryTerms(Strict):
    """How often a request may be sent again, before its first token."""

    most: int = Field(default=2, ge=0, le=10, description="of one request on one path")
    share: float = Field(default=0.2, ge=0, le=1, description="of the requests of about the last ten seconds")
    floor: int = Field(default=20, ge=0, description="in about ten seconds, whatever the share is")
    backoff: float = Field(default=0.05, ge=0, le=10, description="seconds at most before the first; then doubled")
    longest_backoff: float = Field(default=1.0, ge=0, le=60, description="seconds")


class ResilienceConfig(Strict):
    """What is done about engines that fail or are slow."""

    timeouts: Timeouts = Timeouts()
    breaker: BreakerTerms = BreakerTerms()
    retries: RetryTerms = RetryTerms()
    hedge_after: float | None = Field(
        default=None, gt=0, description="seconds without a first token until a second engine is asked; not set: never"
    )
    load_bound: float = Field(
        default=1.25, ge=1, le=10, description="times the mean load, up to which an engine keeps the prompts it knows"
    )


class EngineConfig(Strict):
    """A vLLM with a lora-server beside it, or any OpenAI-compatible endpoint by its URL."""

    model: str
    lora_server: str = ""
    url: str = ""
    api_key_env: str = ""
    timeouts: Timeouts | None = Field(default=None, description="what is not written is as in `resilience`")
    breaker: BreakerTerms | None = Field(default=None, description="what is not written is as in `resilience`")

    @model_validator(mode="after")
    def _one_of_both(self) -> "EngineConfig":
        if bool(self.lora_server) == bool(self.url):
            raise ValueError("an engine has either a lora_server (HOST:PORT) or a url (http://HOST:PORT)")
        return self

    @property
    def identity(self) -> "EngineConfig":
        """What makes it this engine: what is known of it stays where only its timeouts or its breaker change."""
        return self.model_copy(update={"timeouts": None, "breaker": None})


class EmbeddingConfig(Strict):
    """A model of `/v1/embeddings`: the gateway's own, or one of an OpenAI-compatible endpoint by its URL."""

    price: float = Field(ge=0, description="dollars for a million tokens")
    local: bool = False
    url: str = ""
    api_key_env: str = ""
    model: str = Field(default="", description="as the endpoint calls it; empty: by the same name")

    @model_validator(mode="after")
    def _one_of_both(self) -> "EmbeddingConfig":
        if self.local == bool(self.url):
            raise ValueError("an embedding model is either local: true or has a url (http://HOST:PORT)")
        if self.local and (self.api_key_env or self.model):
            raise ValueError("the local embedding model has no api_key_env and no model")
        return self


class RetrievalPrices(Strict):
    search: float = Field(ge=0, description="dollars a search")


class CachePrices(Strict):
    hit: float = Field(ge=0, description="dollars an answer that comes out of the cache")


class ModelsFile(Strict):
    models: dict[str, ModelConfig]
    engines: dict[str, EngineConfig]
    retrieval: RetrievalPrices
    cache: CachePrices | None = Field(default=None, description="must be there where a path caches")
    resilience: ResilienceConfig = ResilienceConfig()
    embeddings: dict[str, EmbeddingConfig] = {}

    @model_validator(mode="after")
    def _a_name_is_one_model(self) -> "ModelsFile":
        both = self.models.keys() & self.embeddings.keys()
        if both:
            raise ValueError(f"'{min(both)}' is a model and an embedding model; give them different names")
        return self

    def timeouts_of(self, engine: str) -> Timeouts:
        """Its own where they are written, else those for all."""
        return _over(self.engines[engine].timeouts, self.resilience.timeouts)

    def breaker_of(self, engine: str) -> BreakerTerms:
        """Its own where they are written, else those for all."""
        return _over(self.engines[engine].breaker, self.resilience.breaker)


# -- paths.yaml


class ZeroShot(Strict):
    prompt: str = Field(description="a file in prompts/, for the system message")


class Persona(Strict):
    prompt: str


class ChainOfThought(Strict):
    prompt: str


class FewShot(Strict):
    task: str = Field(description="whose examples; those with an output are used")
    count: int = Field(ge=1, le=32)
    choose: Literal["nearest", "first"] = "nearest"
    prompt: str = ""


class Retrieval(Strict):
    collection: str
    top_k: int = Field(default=3, ge=1, le=20)
    prompt: str = Field(description="a template in prompts/ that shows the passages")
    required: bool = Field(default=True, description="false: answer without passages where the retriever is away")
    max_tokens: int = Field(default=1000, ge=1, description="of all passages together; the best that fit are shown")
    min_score: float = Field(default=0.0, ge=0.0, le=1.0, description="passages below it are not shown")
    when_nothing: Literal["answer", "next_path"] = Field(
        default="answer",
        description="where nothing relevant is found: answer without passages, or go down the path's fallback",
    )


class StrategyConfig(Strict):
    """One entry of a path's `strategies`: exactly one of these."""

    zero_shot: ZeroShot | None = None
    persona: Persona | None = None
    few_shot: FewShot | None = None
    chain_of_thought: ChainOfThought | None = None
    retrieval: Retrieval | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "StrategyConfig":
        if len(self.model_fields_set) != 1:
            raise ValueError(f"an entry names one strategy; known: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))


class CacheConfig(Strict):
    """Answers of the path that may be given again, to the same tenant."""

    exact: bool = Field(default=True, description="to the very same prompt, sampled alike")
    semantic: float | None = Field(
        default=None, ge=0.8, le=1, description="also to a question of at least this cosine, all else being equal"
    )
    ttl_seconds: int = Field(default=3600, ge=1, le=30 * 24 * 60 * 60)
    sampled: bool = Field(default=False, description="also answers that were sampled with a temperature above 0")
    per_user: bool = Field(default=False, description="never to another user than the one who asked first")

    @model_validator(mode="after")
    def _exact_first(self) -> "CacheConfig":
        if self.semantic is not None and not self.exact:
            raise ValueError("semantic takes exact too: the very same question is the nearest of all")
        return self


class PathConfig(Strict):
    model: str
    adapter: str = Field(default="", pattern=r"^$|^[a-z0-9_-]{1,64}@[a-z0-9_-]{1,64}$")
    strategies: tuple[StrategyConfig, ...] = ()
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: tuple[str, ...] = Field(default=(), max_length=4)
    cache: CacheConfig | None = Field(default=None, description="not set: nothing is cached")


class PathsFile(Strict):
    paths: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], PathConfig]


# -- tasks.yaml


class Rule(Strict):
    """Takes a request for its task before the classifier is asked; all conditions that are set must hold."""

    name: str
    metadata: dict[str, str] = {}
    regex: str = ""
    json_schema: bool | None = Field(default=None, description="whether the request asks for a JSON schema")

    @model_validator(mode="after")
    def _some_condition(self) -> "Rule":
        if not self.metadata and not self.regex and self.json_schema is None:
            raise ValueError(f"rule '{self.name}' has no condition; known: metadata, regex, json_schema")
        return self


class BestValue(Strict):
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


class Escalate(Strict):
    """The first path; where its answer does not satisfy the task's validators, once the next one."""

    paths: tuple[str, ...] = Field(min_length=2)
    streams_freely: tuple[str, ...] = Field(
        default=(), description="paths whose answers are streamed as they come, and so judged too late to be replaced"
    )


class Policy(Strict):
    """Exactly one of these."""

    fixed: str = ""
    split: dict[str, Annotated[float, Field(gt=0)]] = {}
    best_value: BestValue | None = None
    escalate: Escalate | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Policy":
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


class Validator(Strict):
    """What an answer must be; exactly one of these."""

    complete: Literal[True] | None = Field(default=None, description="neither empty nor cut off at max_tokens")
    json_schema: dict[str, Any] | None = Field(default=None, description="it is JSON that satisfies this schema")
    regex: str | None = Field(default=None, description="is found in it")
    mean_logprob: float | None = Field(
        default=None, le=0, description="the mean log-probability of its tokens, at least"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Validator":
        if len(self.model_fields_set) != 1 or getattr(self, self.name) is None:
            raise ValueError(f"an entry names one validator, with a value; known: {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))


class TaskConfig(Strict):
    examples: str = Field(description="a JSONL file in the configuration folder")
    policy: Policy
    fallback: tuple[str, ...] = Field(default=(), description="paths to try, in order, before the first token")
    rules: tuple[Rule, ...] = ()
    validators: tuple[Validator, ...] = ()
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
    evidence_days: int = Field(default=14, ge=1, le=366, description="how far back a path's evidence reaches, UTC days")


class TasksFile(Strict):
    default_path: str = Field(description="where a request goes that fits no task")
    classifier: ClassifierConfig = ClassifierConfig()
    journal: JournalConfig = JournalConfig()
    tasks: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], TaskConfig]
