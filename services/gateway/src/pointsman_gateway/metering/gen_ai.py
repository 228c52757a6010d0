"""Metrics as OpenTelemetry's semantic conventions for generative AI define them, with the names that Prometheus
gives them.

The conventions are those of semantic-conventions v1.41.0, the last release that contains them
(opentelemetry.io/docs/specs/semconv/gen-ai). Token counters follow v0.1.0 of their new repository; see
`gen_ai_usage`. Label values are names from the configuration, or "other", so that neither callers nor new adapters
create series.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from pointsman_servicekit.logs import sampled_trace_id
from prometheus_client import CollectorRegistry

from pointsman_gateway.domain import AUTO, Operation, Receipt, Request, TokenDetails, Usage
from pointsman_gateway.domain.outcome import OK
from pointsman_gateway.domain.path import OTHER
from pointsman_gateway.fast_metrics import FastCollector, Histogram, Series, histogram, nothing_pending
from pointsman_gateway.metering.gen_ai_usage import ModelUsage, TokenCounters
from pointsman_gateway.metering.prometheus import has_token_times

POINTSMAN = "pointsman"
"""The label `gen_ai_provider_name` if the gateway itself is the server."""

VLLM = "vllm"
"""The label `gen_ai_provider_name` for models that are not configured: these are adapters, which only vLLM has."""
OPENAI = "openai"
"""The label `gen_ai_provider_name` for a configured model that no engine has."""

# Buckets of the conventions, in seconds and tokens.
DURATION = (.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)  # fmt: skip
FIRST_TOKEN = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)  # fmt: skip
PER_TOKEN = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5)  # fmt: skip
TOKENS = tuple(4**power for power in range(14))

CLIENT_LABELS = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
SERVER_LABELS = [*CLIENT_LABELS, "gen_ai_response_model"]

_OPERATION_NAMES: Mapping[Operation, str] = {"chat": "chat", "completion": "text_completion"}


class GenAiMetrics:
    """The metrics of the gateway as a server (`gen_ai_server_*`) and as a client of engines (`gen_ai_client_*`)."""

    def __init__(self, registry: CollectorRegistry, flush: Callable[[], None] = nothing_pending) -> None:
        """Takes `flush`, which adds pending receipts; it is called before each export."""
        self._providers: Mapping[str, str] = {}
        self._adapters: frozenset[str] = frozenset()
        self._request_models: frozenset[str] = frozenset()
        self._durations = histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to last token.", [*SERVER_LABELS, "error_type"], DURATION
        )
        self._first_tokens = histogram(
            "gen_ai_server_time_to_first_token_seconds", "Arrival to first token.", SERVER_LABELS, FIRST_TOKEN
        )
        self._per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time per token after the first.", SERVER_LABELS, PER_TOKEN
        )
        self._operations = histogram(
            "gen_ai_client_operation_duration_seconds", "Calls of engines.", [*CLIENT_LABELS, "error_type"], DURATION
        )
        self._tokens = histogram(
            "gen_ai_client_token_usage", "Tokens of an engine's answer.", [*CLIENT_LABELS, "gen_ai_token_type"], TOKENS
        )
        self._usage = TokenCounters(CLIENT_LABELS)
        self._client_series: dict[tuple[str, str, str], _ClientSeries] = {}
        histograms = [self._durations, self._first_tokens, self._per_token, self._operations, self._tokens]
        registry.register(FastCollector(self._usage.families, histograms, flush))

    def set_label_values(self, providers: Mapping[str, str], adapters: Collection[str], paths: Collection[str]) -> None:
        """Sets the allowed label values: providers by model, names of adapters (without version), and paths."""
        self._providers = dict(providers)
        self._adapters = frozenset(adapters)
        self._request_models = frozenset([AUTO, *(f"path:{path}" for path in paths)])

    def observe_rejected(self, request: Request, outcome: str, seconds: float) -> None:
        """Counts a request that ended before it had a decision, with its duration. `outcome` is "cancelled" or an
        error's code.
        """
        labels = self._server_labels(request.operation, request.model, "")
        self._durations.series(*labels, outcome).observe(seconds, sampled_trace_id())

    def receipt_series(self, operation: Operation, model: str, receipt: Receipt) -> Iterator[tuple[str, Series]]:
        """Yields the series that a receipt updates, as pairs of a column's name and a series.

        `MetricsAggregator` later adds the receipt's number in the column, such as its tokens, to the series. `model` is
        the model that the request names.
        """
        labels = self._server_labels(operation, model, receipt.model)
        if receipt.outcome != OK:
            yield "total", self._durations.series(*labels, receipt.outcome)
            return
        yield "total", self._durations.series(*labels, "")
        if "first_token" in receipt.seconds:
            yield "first_token", self._first_tokens.series(*labels)
        if has_token_times(receipt):
            yield "per_token", self._per_token.series(*labels)

    def token_series(self, operation: Operation, model: str) -> Iterator[tuple[str, Series]]:
        """Yields the series of tokens that a receipt updates, as pairs of a column's name and a series.

        Use it only if an engine has counted the tokens, because OpenTelemetry's conventions exclude estimates. `model`
        is the engine's name of the model that answered.
        """
        series = self._client_series_of(operation, model)
        yield "prompt_tokens", series.input
        yield "completion_tokens", series.output
        yield from series.usage.columns()

    def count_details(self, operation: Operation, model: str, details: TokenDetails) -> None:
        """Counts an answer's tokens of special kinds: audio, image, cache-write and reasoning tokens.

        Its plain tokens must have been counted before. `model` is the engine's name of the model that answered.
        """
        self._client_series_of(operation, model).usage.add_details(details)

    def observe_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """Observes the duration of one call of an engine. `model` is the engine's name of the model, `outcome` is "ok",
        "cancelled" or an error's code.
        """
        series = self._client_series_of(operation, model)
        durations = series.durations if outcome == OK else self._operations.series(*series.labels, outcome)
        durations.observe(seconds, sampled_trace_id())

    def observe_tokens(self, operation: Operation, model: str, usage: Usage) -> None:
        """Observes the prompt's and answer's tokens of one of several answers that engines generated for one request.

        `model` is the engine's name of the model.
        """
        series = self._client_series_of(operation, model)
        series.input.observe(usage.prompt_tokens)
        series.output.observe(usage.completion_tokens)
        series.usage.add(usage)

    def observe_model_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """Observes the duration of a request for embeddings or reranking.

        `model` is the name in the configuration, `outcome` is "ok", "cancelled" or an error's code.
        """
        error = "" if outcome == OK else outcome
        self._durations.series(operation, POINTSMAN, model, model, error).observe(seconds, sampled_trace_id())

    def observe_model_tokens(self, operation: Operation, model: str, tokens: int) -> None:
        self._tokens.series(operation, POINTSMAN, model, "input").observe(tokens)

    def provider(self, model: str) -> str:
        """Returns the provider of the engines that have a model of this name; "vllm" for unknown names (adapters)."""
        return self._label(model)[1]

    def _server_labels(self, operation: Operation, requested: str, model: str) -> tuple[str, str, str, str]:
        """Returns the values of `SERVER_LABELS` for one kind of request. Also creates their series, except those of
        errors, at zero: Prometheus misses the first increase of a series that begins above zero.
        """
        request_model = requested if requested in self._request_models else self._label(requested)[0]
        labels = (_OPERATION_NAMES[operation], POINTSMAN, request_model, self._label(model)[0] if model else "")
        self._durations.series(*labels, "")
        self._first_tokens.series(*labels)
        self._per_token.series(*labels)
        return labels

    def _client_series_of(self, operation: Operation, model: str) -> "_ClientSeries":
        label, provider = self._label(model)
        labels = (_OPERATION_NAMES[operation], provider, label)
        series = self._client_series.get(labels)
        if series is None:
            series = self._client_series[labels] = _ClientSeries(
                labels,
                self._operations.series(*labels, ""),
                self._tokens.series(*labels, "input"),
                self._tokens.series(*labels, "output"),
                self._usage.of(labels),
            )
        return series

    def _label(self, model: str) -> tuple[str, str]:
        """Returns the label value (a base model, an adapter without version, or "other") and the provider for an
        engine's name of a model.
        """
        provider = self._providers.get(model)
        if provider is not None:
            return model, provider
        adapter = model.partition("@")[0]
        return (adapter if adapter in self._adapters else OTHER), VLLM


@dataclass(frozen=True, slots=True)
class _ClientSeries:
    """The series of one kind of call to an engine, created together."""

    labels: tuple[str, str, str]
    durations: Histogram
    input: Histogram
    output: Histogram
    usage: ModelUsage
