"""The metrics of OpenTelemetry's conventions for generative AI, under the names that Prometheus gives them.

The conventions are those of opentelemetry.io/docs/specs/semconv/gen-ai as of semantic-conventions v1.41.0, the last
release that held them: v1.42.0 moved them to github.com/open-telemetry/semantic-conventions-genai, which has released
none yet. Labels name what the configuration names, and "other": neither a client nor a registered adapter makes series.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pointsman_servicekit.correlation import recorded_trace
from prometheus_client import CollectorRegistry

from pointsman_gateway.domain import AUTO, Operation, Receipt, Request, Usage
from pointsman_gateway.metering.tallies import Histogram, Tallies, histogram

OTHER = "other"
OURS = "pointsman"
"""The provider, where the gateway itself is the server."""

VLLM = "vllm"
"""Adapters live in no other engine, and a lora-server stands beside no other."""
OPENAI = "openai"
"""Of any other engine we know no more than that it speaks OpenAI's protocol."""

# Buckets are the conventions' own, in seconds and tokens.
DURATION = (.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)  # fmt: skip
PER_TOKEN = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5)  # fmt: skip
TOKENS = tuple(4**power for power in range(14))

CALLED = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
SERVED = [*CALLED, "gen_ai_response_model"]

_NAMES: Mapping[Operation, str] = {"chat": "chat", "completion": "text_completion"}


class GenAi:
    """As a server to its callers, and as a client of its engines."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._providers: Mapping[str, str] = {}
        self._adapters: frozenset[str] = frozenset()
        self._asked: frozenset[str] = frozenset()
        self._durations = histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to last token.", [*SERVED, "error_type"], DURATION
        )
        self._first_tokens = histogram(
            "gen_ai_server_time_to_first_token_seconds", "Arrival to first token, of answers.", SERVED, FIRST_TOKEN
        )
        self._per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds", "Of each token after the first.", SERVED, PER_TOKEN
        )
        self._operations = histogram(
            "gen_ai_client_operation_duration_seconds", "Of one engine's answer.", [*CALLED, "error_type"], DURATION
        )
        self._tokens = histogram(
            "gen_ai_client_token_usage", "Of an engine's answer.", [*CALLED, "gen_ai_token_type"], TOKENS
        )
        self._known_served: dict[tuple[str, str, str, str], _Served] = {}
        self._known_called: dict[tuple[str, str, str], _Called] = {}
        timed = [self._durations, self._first_tokens, self._per_token, self._operations, self._tokens]
        registry.register(Tallies([], timed))

    def know(self, providers: Mapping[str, str], adapters: Collection[str], paths: Collection[str]) -> None:
        """The names allowed from now on: models with their engines' provider, adapters without version, paths."""
        self._providers = dict(providers)
        self._adapters = frozenset(adapters)
        self._asked = frozenset([AUTO, *(f"path:{path}" for path in paths)])

    def refused(self, request: Request, outcome: str, seconds: float) -> None:
        """Before it was decided who answers."""
        self._durations.cell(*self._served(request, "").labels, outcome).observe(seconds, recorded_trace())

    def answered(self, request: Request, receipt: Receipt) -> None:
        served, trace, seconds = self._served(request, receipt.model), recorded_trace(), receipt.seconds
        if receipt.outcome != "ok":
            self._durations.cell(*served.labels, receipt.outcome).observe(seconds["total"], trace)
            return
        served.durations.observe(seconds["total"], trace)
        first = seconds.get("first_token")
        if first is None:
            return
        served.first_tokens.observe(first, trace)
        further = receipt.usage.completion_tokens - 1
        if further > 0:
            served.per_token.observe((seconds["total"] - first) / further, trace)

    def called(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """Implements the backends' `Calls`."""
        called = self._called(operation, model)
        durations = called.durations if outcome == "ok" else self._operations.cell(*called.labels, outcome)
        durations.observe(seconds, recorded_trace())

    def used(self, operation: Operation, model: str, usage: Usage) -> None:
        """What the engine itself has counted; the conventions want no estimates."""
        called = self._called(operation, model)
        called.input.observe(usage.prompt_tokens)
        called.output.observe(usage.completion_tokens)

    def embedded(self, model: str, outcome: str, seconds: float) -> None:
        """`model` is its name in the configuration."""
        error = "" if outcome == "ok" else outcome
        self._durations.cell("embeddings", OURS, model, model, error).observe(seconds, recorded_trace())

    def embedded_tokens(self, model: str, tokens: int) -> None:
        self._tokens.cell("embeddings", OURS, model, "input").observe(tokens)

    def _served(self, request: Request, model: str) -> "_Served":
        asked = request.model if request.model in self._asked else self._label(request.model)[0]
        labels = (_NAMES[request.operation], OURS, asked, self._label(model)[0] if model else "")
        served = self._known_served.get(labels)
        if served is None:
            served = self._known_served[labels] = _Served(
                labels,
                self._durations.cell(*labels, ""),
                self._first_tokens.cell(*labels),
                self._per_token.cell(*labels),
            )
        return served

    def _called(self, operation: Operation, model: str) -> "_Called":
        label, provider = self._label(model)
        labels = (_NAMES[operation], provider, label)
        called = self._known_called.get(labels)
        if called is None:
            called = self._known_called[labels] = _Called(
                labels,
                self._operations.cell(*labels, ""),
                self._tokens.cell(*labels, "input"),
                self._tokens.cell(*labels, "output"),
            )
        return called

    def provider(self, model: str) -> str:
        """Of an engine that knows `model` by this name."""
        return self._label(model)[1]

    def _label(self, model: str) -> tuple[str, str]:
        """The name and the provider of a model as an engine knows it: a base model, or an adapter's version."""
        provider = self._providers.get(model)
        if provider is not None:
            return model, provider
        adapter = model.partition("@")[0]
        return (adapter if adapter in self._adapters else OTHER), VLLM


@dataclass(frozen=True, slots=True)
class _Served:
    """Series of one sort of request; born with it, so that a rate is right from the first one on."""

    labels: tuple[str, str, str, str]
    durations: Histogram
    first_tokens: Histogram
    per_token: Histogram


@dataclass(frozen=True, slots=True)
class _Called:
    """Series of one sort of question to an engine."""

    labels: tuple[str, str, str]
    durations: Histogram
    input: Histogram
    output: Histogram
