"""The schema of paths.yaml: for each path the model, prompt strategies, sampling parameters and cache."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pointsman_gateway.config.field_types import (
    MAX_STOP_SEQUENCES,
    Name,
    Seed,
    StrategyConfig,
    Strict,
    Temperature,
    TopP,
)
from pointsman_gateway.domain.path import FORM_FIELDS

MaxTokens = Annotated[int, Field(ge=1)] | Literal["unlimited"]


def _check_max_tokens(value: Any) -> Any:
    """Returns the value of `max_tokens`; raises ValueError unless it is a number from 1, "unlimited" or None."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number is None or number == "unlimited" or (type(number) is int and number >= 1):
        return number
    raise ValueError("it must be a number from 1, or unlimited")


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
    max_tokens: Annotated[MaxTokens | None, BeforeValidator(_check_max_tokens)] = Field(
        default=None,
        description="of an answer, unless the request sets it; unset: a limit by the path's kind (docs/engines.md)",
    )
    structured_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="instead of max_tokens, for requests with a response_format or tools; unset: the context window",
    )
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    response_format: dict[str, Any] | None = Field(
        default=None, description="as in a request: {type: json_object}, or {type: json_schema, json_schema: ...}"
    )
    answers: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(),
        max_length=1000,
        description="the only answers that the model can give, such as labels; its engines must be vLLM",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of a request, such as {top_k: 20}; its engines must accept them",
    )
    stop: tuple[str, ...] = Field(default=(), max_length=MAX_STOP_SEQUENCES)
    cache: CacheConfig | None = Field(default=None, description="unset: answers are not cached")

    @property
    def extra_fields(self) -> dict[str, Any]:
        """Returns the fields that the path adds to the body of requests to engines: field name -> value.

        They are those of `extra_body`, and the field that sets the form of the answer.
        """
        fields: dict[str, Any] = {"response_format": self.response_format} if self.response_format else {}
        if self.answers:
            fields["structured_outputs"] = {"choice": list(self.answers)}
        return {**self.extra_body, **fields}

    @model_validator(mode="after")
    def _has_one_form(self) -> "PathConfig":
        if self.answers and (self.response_format or not FORM_FIELDS.isdisjoint(self.extra_body)):
            raise ValueError("answers cannot be combined with response_format or a form in extra_body; keep one")
        if len(set(self.answers)) < len(self.answers):
            raise ValueError("answers has one of them twice; write each once")
        return self


class PathsFile(Strict):
    paths: dict[Name, PathConfig]
