"""Paths, the ways to answer a request, the catalog of paths that a configuration offers, and adapters.

Versions and aliases of adapters are those that a lora-server lists; a path is resolved to one version per request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pointsman_gateway.domain.value import value

IDLE, OTHER = "idle", "other"
"""Values of the label `path` in metrics for an engine's time that nobody used, and for paths that the configuration
does not name.
"""

FORM_PARAMETERS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""vLLM's parameters for the form of an answer; older versions know the last four."""
STRUCTURING_PARAMETERS = ("tools", "functions", *FORM_PARAMETERS)
"""Parameters that give the answer a structure, in addition to `response_format`."""
FORM_FIELDS = frozenset({"response_format", *FORM_PARAMETERS})
"""Parameters that set the format of an answer; a request can have one of them."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that can be moved from one version to another ("triage@prod")."""

    alias: str
    version: str
    revision: int = 0
    """Incremented with each change of the alias or of its canary; of two reports the higher revision is newer."""
    canary_version: str = ""
    """Empty if the alias has no canary."""
    canary_weight: float = 0.0
    """The share of users that the canary answers, 0 to 1."""
    previous: str = ""
    """The version that a rollback restores; empty if there is none."""


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """The adapter version for one request, resolved once with the decision; it does not change afterwards."""

    version: str
    revision: int = 0
    """The alias's revision; 0 if the path names a version instead of an alias."""
    has_canary: bool = False
    """Whether the alias has a canary. If so, the request's outcome is reported to a lora-server."""
    notes: tuple[str, ...] = ()
    """Remarks for the decision."""
    replaces: str = ""
    """The version that a rollback of this one restores; empty if there is none."""


@dataclass(frozen=True, slots=True)
class CanaryMetrics:
    """Outcomes of the requests that an alias sent to one version since the last report."""

    model: str
    alias: str
    revision: int
    version: str
    requests: int = 0
    errors: int = 0
    """Failures caused by the version or by its engine."""
    invalid: int = 0
    """Complete answers that a validator refused."""
    latency_buckets: Mapping[int, int] = field(default_factory=dict)
    """Complete answers by total time: bucket k counts those of 2^((k-1)/4) to 2^(k/4) ms, bucket 0 those up to 1 ms."""
    rated: int = 0
    """Number of answers that callers have rated."""
    rating: int = 0
    """The sum of their ratings, in thousandths."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One adapter version and its state on one engine."""

    version: str
    name: str
    state: str
    """ "registered", "validating", "ready", "loading", "warm", "serving", "draining", "retired" or "failed"."""
    aliases: tuple[str, ...]
    """The aliases whose stable version or canary this version is."""
    pinned: bool
    rank: int
    bytes: int
    created_unix_ms: int
    error_code: str
    error: str
    """The message of the last error; empty if there was none."""
    metrics: Mapping[str, float]
    """Results of its evaluation."""
    parent: str
    author: str


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """One entry of the registry's history: a change of a version or an alias."""

    at_unix_ms: int
    kind: str
    subject: str
    """A version or an alias."""
    before: str
    after: str
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdapterListing:
    """All adapters of one base model, as its lora-server lists them."""

    versions: tuple[AdapterVersion, ...]
    aliases: tuple[Alias, ...]
    changes: tuple[AdapterChange, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A command to point an alias to a version, or to give it a canary that answers a share of its users."""

    alias: str
    version: str
    """Empty to end a canary, or to roll the alias back."""
    expected_version: str
    """The move is rejected unless the alias points to this version now; empty accepts any."""
    author: str
    weight: float = 1.0
    """The canary's share, above 0 to 1; 0 ends the canary."""
    force: bool = False
    """Move the alias even if the evaluation found prompting as good."""
    reason: str = ""
    """The reason for a rollback, for the history."""


@value
class Sampling:
    """Sampling parameters of a request; None means the path's setting, or else the engine's default."""

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
    anthropic: Mapping[str, Any] | None = None
    """Fields of a request in Anthropic's format that chat completions do not have; only engines with this format get
    them."""

    @property
    def is_structured(self) -> bool:
        """Returns whether the answer must be JSON or of a given form, or may call tools: useless if cut off."""
        extra = self.extra
        if self.anthropic and self.anthropic.get("tools"):
            return True
        if not extra:
            return False
        return self.response_format is not None or any(extra.get(name) for name in STRUCTURING_PARAMETERS)

    @property
    def response_format(self) -> Mapping[str, Any] | None:
        """Returns the form that the client requires of the answer; None if any text will do."""
        response_format = self.extra.get("response_format")
        is_form = isinstance(response_format, Mapping) and response_format.get("type") != "text"
        return response_format if is_form else None

    @property
    def requires_form(self) -> bool:
        """Returns whether the client requires a form of the answer, by OpenAI's parameter or by one of vLLM's."""
        return self.response_format is not None or any(self.extra.get(name) for name in FORM_PARAMETERS)

    def default_max_tokens(self, default: "Sampling") -> int | None:
        """Returns the path's `max_tokens` (`default`) for an answer of this kind: structured, or prose."""
        return default.structured_max_tokens if self.is_structured else default.max_tokens

    def with_defaults(self, default: "Sampling") -> "Sampling":
        """Returns these parameters, with those that are not set taken from `default`.

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
            extra={**self._extra_of(default), **self.extra} if default.extra else self.extra,
            anthropic=self.anthropic,
        )

    def _extra_of(self, default: "Sampling") -> Mapping[str, Any]:
        """Returns the path's own parameters; without the path's format if the client requires one."""
        if not self.is_structured:
            return default.extra
        return {name: one for name, one in default.extra.items() if name not in FORM_FIELDS}


class Kind(StrEnum):
    """What a path is made of, such as a prompt, retrieval or an adapter; derived from the path, never configured."""

    PROMPT = "prompt"
    RAG = "rag"
    LORA = "lora"
    TUNED = "tuned"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Path:
    """One complete way to answer a request: a model, perhaps an adapter, prompt strategies, perhaps retrieval."""

    name: str
    model: str
    adapter: str = ""
    strategies: tuple[str, ...] = ()
    """Names only; `bootstrap` builds the strategies themselves from the configuration."""
    sampling: Sampling = field(default_factory=Sampling)
    collections: tuple[str, ...] = ()
    """The collections that its strategies search."""
    fingerprint: str = ""
    """A hash of the path's configuration, its prompts included. Statistics count only for the same fingerprint."""
    resolved_adapter: ResolvedAdapter | None = None
    """The version of `adapter` for one request; None before the decision, and for a path without an adapter."""
    shows_examples: bool = field(default=False, compare=False)
    """Whether its prompt contains examples."""
    tuned_from: str = ""
    """The model that its model was fully fine-tuned from; empty if its model is a base model."""
    kind: Kind = field(init=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns remarks on the path's resolved adapter."""
        return self.resolved_adapter.notes if self.resolved_adapter is not None else ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self._kind())

    def _kind(self) -> Kind:
        # The names of the built-in strategies suffice for a path that is restored from the write-ahead log.
        searches = bool(self.collections) or "retrieval" in self.strategies
        if self.adapter or self.tuned_from:
            if searches or self.shows_examples or "few_shot" in self.strategies:
                return Kind.HYBRID
            return Kind.LORA if self.adapter else Kind.TUNED
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
    """Dollars per million tokens of each kind, for prompts of the usual length; None if they are unknown."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The configured tasks, paths and models, for clients that compare paths."""

    default_path: str
    search_usd: float
    """Dollars per search."""
    tasks: Mapping[str, CatalogTask] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    models: Mapping[str, CatalogModel] = field(default_factory=dict)
