"""Paths, the ways to answer a request, and the catalog of paths that a configuration offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pointsman_gateway.domain.adapters import ResolvedAdapter
from pointsman_gateway.domain.value import value

STRUCTURING_PARAMETERS = ("tools", "functions", "structured_outputs")
"""In addition to `response_format`; the last one is vLLM's."""


@value
class Sampling:
    """Sampling parameters. None means the path's setting, or else the engine's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    """An empty tuple means no stop sequences, whatever the path's setting."""
    structured_max_tokens: int | None = None
    """Of a path only: its `max_tokens` for structured requests."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """OpenAI parameters that the gateway does not interpret; the engine receives them unchanged."""

    @property
    def is_structured(self) -> bool:
        """Whether the answer is JSON, a text of a given form, or a tool call, which is useless if it is cut off."""
        extra = self.extra
        if not extra:
            return False
        return self.response_format is not None or any(extra.get(name) for name in STRUCTURING_PARAMETERS)

    @property
    def response_format(self) -> Mapping[str, Any] | None:
        """The form that the client requires of the answer; None if any text will do."""
        response_format = self.extra.get("response_format")
        is_form = isinstance(response_format, Mapping) and response_format.get("type") != "text"
        return response_format if is_form else None

    def default_max_tokens(self, default: "Sampling") -> int | None:
        """Return `max_tokens` of `default` for this kind of request."""
        return default.structured_max_tokens if self.is_structured else default.max_tokens

    def with_defaults(self, default: "Sampling") -> "Sampling":
        """Return these parameters, with those that are not set taken from `default`.

        Stop sequences and `max_tokens` that suit the path's prose do not apply to structured requests.
        """
        stop = self.stop
        if stop is None:
            stop = () if self.is_structured else default.stop or ()
        return Sampling(
            max_tokens=self.max_tokens if self.max_tokens is not None else self.default_max_tokens(default),
            temperature=self.temperature if self.temperature is not None else default.temperature,
            top_p=self.top_p if self.top_p is not None else default.top_p,
            seed=self.seed if self.seed is not None else default.seed,
            stop=stop,
            extra={**default.extra, **self.extra},
        )


class Kind(StrEnum):
    """What a path is made of. It is derived from the path and never configured."""

    PROMPT = "prompt"
    RAG = "rag"
    LORA = "lora"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Path:
    """One complete way to answer."""

    name: str
    model: str
    adapter: str = ""
    strategies: tuple[str, ...] = ()
    """Names only; `wiring` builds the strategies themselves from the configuration."""
    sampling: Sampling = field(default_factory=Sampling)
    collections: tuple[str, ...] = ()
    """The collections that its strategies search."""
    fingerprint: str = ""
    """A hash of the path's configuration, its prompts included. Evidence counts only for the same fingerprint."""
    resolved_adapter: ResolvedAdapter | None = None
    """The version of `adapter` for one request; None before the decision, and for a path without an adapter."""
    shows_examples: bool = field(default=False, compare=False)
    """Whether its prompt contains examples."""
    kind: Kind = field(init=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on its resolved adapter."""
        return self.resolved_adapter.notes if self.resolved_adapter is not None else ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self._kind())

    def _kind(self) -> Kind:
        # The names of the built-in strategies suffice for a path that is restored from the write-ahead log.
        searches = bool(self.collections) or "retrieval" in self.strategies
        if self.adapter:
            has_examples = self.shows_examples or "few_shot" in self.strategies
            return Kind.HYBRID if searches or has_examples else Kind.LORA
        return Kind.RAG if searches else Kind.PROMPT


@dataclass(frozen=True, slots=True)
class CatalogTask:
    policy: str
    """The policy's name, such as "fixed" or "best_value"."""
    paths: tuple[str, ...]
    """All paths that may answer, in the order in which they are tried; the default path is the last."""
    metric: Mapping[str, Any] | None
    """{name: options}, or None if there is no metric. A judge's options are "model" and the text of its "prompt"."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    context_window: int
    """Tokens, prompt and answer together."""
    prices: Mapping[str, float] | None
    """Dollars per million tokens: "prompt", "cached", "completion"; None if they are unknown."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The configured tasks, paths and models, for clients that compare paths."""

    default_path: str
    search_usd: float
    """Dollars per search."""
    tasks: Mapping[str, CatalogTask] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    models: Mapping[str, CatalogModel] = field(default_factory=dict)
