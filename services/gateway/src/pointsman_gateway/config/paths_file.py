"""The schema of paths.yaml: each path's model, adapter, prompt strategies, sampling and cache."""

from typing import Annotated

from pydantic import Field, model_validator

from pointsman_gateway.config.field_types import MAX_STOP_SEQUENCES, StrategyConfig, Strict, Temperature


class CacheConfig(Strict):
    """Which answers of the path may be reused for the same tenant."""

    exact: bool = Field(default=True, description="for an identical prompt with identical sampling")
    similarity_threshold: float | None = Field(
        default=None,
        ge=0.8,
        le=1,
        description="also for a question of at least this cosine similarity, if all else is equal; unset: not",
    )
    ttl_seconds: int = Field(default=3600, ge=1, le=30 * 24 * 60 * 60)
    allow_nonzero_temperature: bool = Field(
        default=False, description="also answers that were sampled with a temperature above 0"
    )
    per_user: bool = Field(default=False, description="only for the user who asked first")

    @model_validator(mode="after")
    def _similar_implies_exact(self) -> "CacheConfig":
        if self.similarity_threshold is not None and not self.exact:
            raise ValueError("similarity_threshold needs exact: true, since an identical question is the most similar")
        return self


class PathConfig(Strict):
    model: str
    adapter: str = Field(
        default="",
        pattern=r"^[!-~]{0,200}$",
        description="an alias or version of a lora-server (NAME@ALIAS), or the name of a discovered adapter",
    )
    strategies: tuple[StrategyConfig, ...] = ()
    max_tokens: int | None = Field(default=None, ge=1)
    structured_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="instead of max_tokens, for requests with a response_format or tools; unset: the context window",
    )
    temperature: Temperature | None = None
    stop: tuple[str, ...] = Field(default=(), max_length=MAX_STOP_SEQUENCES)
    cache: CacheConfig | None = Field(default=None, description="unset: answers are not cached")


class PathsFile(Strict):
    paths: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], PathConfig]
