"""The metrics of OpenTelemetry's conventions for generative AI, under the names that Prometheus gives them.

The conventions are those of opentelemetry.io/docs/specs/semconv/gen-ai as of semantic-conventions v1.41.0, the last
release that held them: v1.42.0 moved them to github.com/open-telemetry/semantic-conventions-genai, which has released
none yet. Labels name what the configuration names, and "other": neither a client nor a registered adapter makes series.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from pointsman_servicekit.logs import sampled_trace_id
from prometheus_client import CollectorRegistry

from pointsman_gateway.domain import AUTO, Operation, Receipt, Request, Usage
from pointsman_gateway.domain.outcome import OK
from pointsman_gateway.fast_metrics import FastCollector, Histogram, Series, histogram, nothing_waits
from pointsman_gateway.metering.prometheus import has_pace

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

    def __init__(self, registry: CollectorRegistry, settle: Callable[[], None] = nothing_waits) -> None:
        """`settle` counts what waits; it is called before anybody reads."""
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
        self._known_called: dict[tuple[str, str, str], _Called] = {}
        timed = [self._durations, self._first_tokens, self._per_token, self._operations, self._tokens]
        registry.register(FastCollector([], timed, settle))

    def know(self, providers: Mapping[str, str], adapters: Collection[str], paths: Collection[str]) -> None:
        """The names allowed from now on: models with their engines' provider, adapters without version, paths."""
        self._providers = dict(providers)
        self._adapters = frozenset(adapters)
        self._asked = frozenset([AUTO, *(f"path:{path}" for path in paths)])

    def refused(self, request: Request, outcome: str, seconds: float) -> None:
        """Before it was decided who answers."""
        self._durations.cell(*self._served(request.operation, request.model, ""), outcome).observe(
            seconds, sampled_trace_id()
        )

    def cells(self, operation: Operation, model: str, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        """What is told of an answer, by the name of the number; `model` was asked for."""
        labels = self._served(operation, model, receipt.model)
        if receipt.outcome != OK:
            yield "total", self._durations.cell(*labels, receipt.outcome)
            return
        yield "total", self._durations.cell(*labels, "")
        if "first_token" in receipt.seconds:
            yield "first_token", self._first_tokens.cell(*labels)
        if has_pace(receipt):
            yield "per_token", self._per_token.cell(*labels)

    def cells_of_tokens(self, operation: Operation, model: str) -> Iterator[tuple[str, Series]]:
        """What an engine itself has counted of an answer; the conventions want no estimates."""
        called = self._called(operation, model)
        yield "read", called.input
        yield "completion", called.output

    def called(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """Implements the backends' `Calls`."""
        called = self._called(operation, model)
        durations = called.durations if outcome == OK else self._operations.cell(*called.labels, outcome)
        durations.observe(seconds, sampled_trace_id())

    def used(self, operation: Operation, model: str, usage: Usage) -> None:
        """The same, of one of several answers to a request."""
        called = self._called(operation, model)
        called.input.observe(usage.prompt_tokens)
        called.output.observe(usage.completion_tokens)

    def embedded(self, model: str, outcome: str, seconds: float) -> None:
        """`model` is its name in the configuration."""
        error = "" if outcome == OK else outcome
        self._durations.cell("embeddings", OURS, model, model, error).observe(seconds, sampled_trace_id())

    def embedded_tokens(self, model: str, tokens: int) -> None:
        self._tokens.cell("embeddings", OURS, model, "input").observe(tokens)

    def _served(self, operation: Operation, asked: str, model: str) -> tuple[str, str, str, str]:
        """The labels of one sort of request, whose series are born together: so a rate is right from the first on."""
        named = asked if asked in self._asked else self._label(asked)[0]
        labels = (_NAMES[operation], OURS, named, self._label(model)[0] if model else "")
        self._durations.cell(*labels, "")
        self._first_tokens.cell(*labels)
        self._per_token.cell(*labels)
        return labels

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
class _Called:
    """Series of one sort of question to an engine; born together, too."""

    labels: tuple[str, str, str]
    durations: Histogram
    input: Histogram
    output: Histogram
