"""The shape of `paths.yaml`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pointsman_gateway.config.sampling import MAX_STOP_SEQUENCES, Temperature
from pointsman_gateway.config.strict import Strict


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
    temperature: Temperature | None = None
    stop: tuple[str, ...] = Field(default=(), max_length=MAX_STOP_SEQUENCES)
    cache: CacheConfig | None = Field(default=None, description="not set: nothing is cached")


class PathsFile(Strict):
    paths: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], PathConfig]
