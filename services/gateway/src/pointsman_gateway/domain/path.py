"""Paths (the ways to answer a request), versions and aliases of adapters, and the catalog of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from pointsman_gateway.domain.value import value

IDLE, OTHER = "idle", "other"
"""Two values of the label `path` in Prometheus metrics. "idle" is for the time in which an engine has no requests,
"other" for requests on a path that the configuration does not name.
"""

FORM_PARAMETERS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""vLLM's parameters for the form of an answer; the last four are the parameters of older vLLM versions."""
STRUCTURING_PARAMETERS = ("tools", "functions", *FORM_PARAMETERS)
"""Request parameters that give the answer a structure, as `response_format` does: tools, functions, and vLLM's
`FORM_PARAMETERS`.
"""
FORM_FIELDS = frozenset({"response_format", *FORM_PARAMETERS})
"""Parameters that set the form of an answer; a request may have only one of them."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for an adapter version, such as "triage@prod", that can be moved to another version."""

    alias: str
    version: str
    """The stable adapter version to which the alias points; `canary_version` is the canary's version."""
    revision: int = 0
    """Number that increases with each change of the alias or of its canary. Of two reports, the higher revision is
    newer.
    """
    canary_version: str = ""
    """The adapter version on trial, which answers a share of the requests; empty if none is on trial."""
    canary_weight: float = 0.0
    """The share of users whose requests the canary answers, 0 to 1."""
    previous: str = ""
    """The version that a rollback of the alias restores; empty if there is none."""


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """The adapter version that answers one request. It is determined with the routing decision and does not change
    afterwards.
    """

    version: str
    revision: int = 0
    """The alias's revision; 0 if the path names a version instead of an alias."""
    has_canary: bool = False
    """Whether the alias has a canary (a version on trial). The gateway then reports the request's outcome to a
    lora-server.
    """
    notes: tuple[str, ...] = ()
    """Remarks on the choice of the version, for the decision."""
    replaces: str = ""
    """The adapter version that an operator restores by a rollback of `version`; empty if there is none."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One version of an adapter, as the lora-server of one engine reports it, with its state on this engine."""

    version: str
    name: str
    state: str
    """The state: "registered", "validating", "ready", "loading", "warm", "serving", "draining", "retired" or "failed",
    explained at `AdapterState` in lora_server.proto; "unspecified" if a newer lora-server reports another state."""
    aliases: tuple[str, ...]
    """The aliases that have this version as their stable version or as their canary."""
    pinned: bool
    rank: int
    bytes: int
    created_unix_ms: int
    error_code: str
    error: str
    """The message of the version's last error; empty if there was none."""
    metrics: Mapping[str, float]
    """Results of the version's evaluation, by name, such as "heldout_exact"."""
    parent: str
    author: str


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """One entry in the history of adapters: a version or an alias was changed, by whom, when (Unix milliseconds), and
    why.
    """

    at_unix_ms: int
    kind: str
    subject: str
    """The version or the alias that was changed."""
    before: str
    after: str
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdapterListing:
    """All adapters of one base model, as the lora-server of one engine lists them; states are those on this engine."""

    versions: tuple[AdapterVersion, ...]
    aliases: tuple[Alias, ...]
    changes: tuple[AdapterChange, ...]
    """The last changes, newest first; at most `MAX_CHANGES` of `engines/adapter_admin.py`."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """What an operator orders for an alias of adapter versions, such as "triage@prod": to move, canary or roll back.

    The method of `AdapterAdminClient` to which it is passed determines the action; the fields are the action's
    arguments.
    """

    alias: str
    version: str
    """The version to which the alias moves, or the version of the new canary. Empty to end a canary, or to roll the
    alias back.
    """
    expected_version: str
    """The command is rejected unless the alias points to this version now; empty accepts any version."""
    author: str
    weight: float = 1.0
    """Only for a canary: its share of users, above 0 and up to 1; 0 ends the canary."""
    force: bool = False
    """Whether to move the alias even if the version's evaluation says that prompting the base model is as good."""
    reason: str = ""
    """The reason for a rollback, which is stored in the history."""


@value
class Sampling:
    """Sampling parameters of a request or of a path, such as `temperature`.

    If a request's parameter is None, the value of its path is used; if that is None too, the engine's default.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    """The texts at which the engine stops. In a request, an empty tuple stands for no such texts, whatever the path's
    setting is, and None for the path's setting.
    """
    structured_max_tokens: int | None = None
    """Only for a path: its `max_tokens` for structured requests (see `is_structured`)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other parameters of OpenAI's API or of vLLM, by name, such as "tools"; sent to engines that accept them."""
    anthropic: Mapping[str, Any] | None = None
    """Fields of a request in Anthropic's format that OpenAI's chat completions do not have; None for other requests.
    Only engines with Anthropic's format get them."""

    @property
    def is_structured(self) -> bool:
        """Returns whether the request has tools, or a parameter for the answer's form, such as a JSON schema.

        Such an answer is useless if it is cut off, so a path's `max_tokens` and `stop` do not apply to it.
        """
        extra = self.extra
        if self.anthropic and self.anthropic.get("tools"):
            return True
        if not extra:
            return False
        return self.response_format is not None or any(extra.get(name) for name in STRUCTURING_PARAMETERS)

    @property
    def response_format(self) -> Mapping[str, Any] | None:
        """Returns the parameter `response_format` of OpenAI's API, if it requires JSON; None if it is missing or of
        type "text".
        """
        response_format = self.extra.get("response_format")
        is_form = isinstance(response_format, Mapping) and response_format.get("type") != "text"
        return response_format if is_form else None

    @property
    def requires_form(self) -> bool:
        """Returns whether the client requires a form of the answer, such as a JSON schema or a regular expression.

        The parameters for this are `response_format` and vLLM's `FORM_PARAMETERS`.
        """
        return self.response_format is not None or any(self.extra.get(name) for name in FORM_PARAMETERS)

    def default_max_tokens(self, default: "Sampling") -> int | None:
        """Returns the path's maximum number of tokens for the answer to a request with these parameters; None if it
        has none.

        `default` are the path's parameters: its `structured_max_tokens` applies to structured requests, its
        `max_tokens` to others.
        """
        return default.structured_max_tokens if self.is_structured else default.max_tokens

    def with_defaults(self, default: "Sampling") -> "Sampling":
        """Returns a request's parameters with those of its path, `default`, in place of the ones that the request does
        not set.

        A structured request without `max_tokens` gets `structured_max_tokens`, and no structured request gets stop
        sequences or `FORM_FIELDS` from `default`. `anthropic` is never taken from `default`.
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
        """Returns the path's `extra` parameters for this request; for a structured request, without those of
        `FORM_FIELDS`.
        """
        if not self.is_structured:
            return default.extra
        return {name: one for name, one in default.extra.items() if name not in FORM_FIELDS}


class Kind(StrEnum):
    """What a path uses to answer; it is derived from the path's configuration.

    "prompt": only a prompt; "rag": retrieval; "lora": an adapter; "tuned": a fully fine-tuned model; "hybrid": one of
    the last two together with retrieval or examples.
    """

    PROMPT = "prompt"
    RAG = "rag"
    LORA = "lora"
    TUNED = "tuned"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class AnswerLimit:
    """The maximum number of tokens of an answer if neither the request nor its path sets `max_tokens`."""

    tokens: int
    max_prompt_tokens: int
    """The number of tokens of the longest prompt to which the limit applies. After a longer one, `tokens` may not fit
    into the context window, and engines reject requests whose `max_tokens` does not fit."""


@dataclass(frozen=True, slots=True)
class Path:
    """One complete way to answer a request: a model, prompt strategies, sampling parameters, and perhaps an adapter."""

    name: str
    model: str
    """The name of the base model in the configuration."""
    adapter: str = ""
    """An alias ("triage@prod") or a version; empty without an adapter."""
    strategies: tuple[str, ...] = ()
    """The names of the prompt strategies, in the order in which they are applied."""
    sampling: Sampling = field(default_factory=Sampling)
    collections: tuple[str, ...] = ()
    """The collections of documents that the strategies search."""
    fingerprint: str = ""
    """A hash of the path's configuration, prompts and examples. If it changes, earlier statistics of the path, such as
    ratings, are not used any more.
    """
    resolved_adapter: ResolvedAdapter | None = None
    """The version of `adapter` for one request; None before the decision, or if the path has no adapter."""
    shows_examples: bool = field(default=False, compare=False)
    """Whether the path's prompt contains examples."""
    tuned_from: str = ""
    """The model from which `model` was fully fine-tuned; empty if `model` is a base model."""
    answer_limit: AnswerLimit | None = field(default=None, compare=False)
    """The maximum length of answers without `max_tokens`. If it is None, as for a model that a request names, only the
    engine limits the length.
    """
    kind: Kind = field(init=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns the remarks on how the path's adapter version was determined; empty if the path has no resolved
        adapter.
        """
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
    """The names of all paths that may answer the task's requests, each once: those of the task's policy, its fallbacks,
    and the default path.
    """
    metric: Mapping[str, Any] | None
    """{name: options} of the metric that scores answers; None if there is none. The options of "judge" are "model" and
    "prompt" (the text, empty for the built-in one)."""


@dataclass(frozen=True, slots=True)
class CatalogPrices:
    listed: Mapping[str, float] | None
    """Dollars by component of the cost: per million tokens of a kind, as for prompts of usual length, and per "image",
    "request" and "tool" request, if these have a price; None if the prices of tokens are unknown."""
    others: str
    """A hash of the prices that are not listed, such as those of long prompts and service tiers; empty if there are
    none."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    context_window: int
    """Maximum number of tokens of prompt and answer together."""
    prices: tuple[tuple[date, CatalogPrices], ...]
    """Pairs (day, prices that hold from this day on, in UTC), the earliest day first. The first prices also hold before
    their day.
    """
    fingerprint: str = ""
    """A hash of the names that engines have for the model, and of the name of the model from which this model was
    fine-tuned.
    """

    def prices_on(self, day: date) -> CatalogPrices:
        return next((prices for since, prices in reversed(self.prices) if since <= day), self.prices[0][1])


@dataclass(frozen=True, slots=True)
class Catalog:
    """The configured tasks, paths and models by name, for clients that compare paths."""

    default_path: str
    """The default path; empty in the catalog for a key that may not use it."""
    search_usd: float
    """Dollars per search of the retriever."""
    tasks: Mapping[str, CatalogTask] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    models: Mapping[str, CatalogModel] = field(default_factory=dict)
