"""Computes rates, latencies and costs over a time window, from the counters of the gateway and the lora-server."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pointsman_cli.top.metrics import Quantiles, Window

GATEWAY_METRICS = (
    "pointsman_requests_total",
    "pointsman_request_duration_seconds_bucket",
    "pointsman_time_to_first_token_seconds_bucket",
    "pointsman_tokens_total",
    "pointsman_cost_usd_total",
    "pointsman_fallbacks_total",
    "pointsman_in_flight",
    "pointsman_queue_depth",
    "pointsman_event_loop_lag_seconds_bucket",
    "pointsman_engine_breaker_open",
    "pointsman_redis_up",
    "pointsman_worker_up",
    "pointsman_worker_in_flight",
    "pointsman_worker_restarts_total",
)
LORA_SERVER_METRICS = ("pointsman_lora_",)
"""Beginnings of the names of the lora-server's metrics that `pointsman top` reads."""

CLIENT_FAULTS = frozenset({"none", "caller", "limits"})
"""Values of the label `fault` of pointsman_requests_total for requests that `top` does not count as failures."""
TOKENS = ("prompt", "cached", "completion", "replayed")


@dataclass(frozen=True, slots=True)
class PathFigures:
    """The requests, latency, tokens and cost of one path of a gateway over the time window of `pointsman top`."""

    path: str
    kind: str  # "prompt", "rag", "lora", "tuned" or "hybrid"
    requests: float  # requests that ended in the window
    share: float | None  # of the requests of all paths, 0 to 1; None if there was none
    requests_per_second: float
    seconds: Quantiles  # of whole requests
    first_token_seconds: Quantiles  # of the time to the first token
    tokens_per_second: Mapping[str, float]  # by token type, see TOKENS
    usd_per_1k_requests: float | None  # None if no request ended
    fallbacks: float  # requests that moved from this path to another
    failures: float | None  # requests that failed, see CLIENT_FAULTS; None if the gateway does not report faults


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """Whether one worker process of a gateway runs, its requests in flight now, and its restarts since the start."""

    worker: str
    up: bool
    in_flight: float
    restarts: float  # since the gateway's start


@dataclass(frozen=True, slots=True)
class GatewayFigures:
    """Traffic of a gateway over the time window of `pointsman top`, in total and by path, and its present state.

    A value is None if the gateway does not report the metric.
    """

    seconds: float  # that the window covers
    requests_per_second: float
    paths: tuple[PathFigures, ...]  # sorted by requests since the gateway's start, most first
    in_flight: float | None  # requests that run now
    waiting: float | None  # requests that wait for admission now
    event_loop_lag_seconds: Quantiles
    open_breakers: tuple[str, ...]  # names of the engines whose circuit breaker is open now
    redis_up: bool | None
    workers: tuple[WorkerFigures, ...]  # empty for a single process


@dataclass(frozen=True, slots=True)
class LoraFigures:
    """State of a lora-server's engine and adapter slots, and its adapter loads in the time window of `pointsman top`.

    A value is None if the lora-server does not report the metric.
    """

    seconds: float  # that the window covers
    engine_up: bool | None
    engine_restarts: float | None  # since the lora-server's start
    slots: float | None  # adapters that the engine can hold at once
    resident: float | None  # adapters that the engine holds now
    loads: Mapping[str, float]  # in the window, by result
    evictions: float  # in the window
    redis_up: bool | None


def gateway_figures(window: Window) -> GatewayFigures | None:
    """Computes a gateway's figures over the time window `window`; returns None until there are two scrapes."""
    if not window.seconds or window.latest is None:
        return None
    paths = _Paths(window)
    breakers = window.latest.samples.get("pointsman_engine_breaker_open", {})
    return GatewayFigures(
        seconds=window.seconds,
        requests_per_second=paths.everyones / window.seconds,
        paths=tuple(paths.figures(path, kind) for path, kind in _known_paths(window).items()),
        in_flight=window.latest.value("pointsman_in_flight"),
        waiting=window.latest.value("pointsman_queue_depth"),
        event_loop_lag_seconds=Quantiles.of(_buckets(window, "pointsman_event_loop_lag_seconds").get("", {})),
        open_breakers=tuple(sorted(dict(labels).get("engine", "") for labels, is_open in breakers.items() if is_open)),
        redis_up=_is_set(window, "pointsman_redis_up"),
        workers=tuple(_workers(window)),
    )


def _workers(window: Window) -> Iterator[WorkerFigures]:
    in_flight, restarts = (
        {labels["worker"]: value for labels, value in _latest(window, f"pointsman_worker_{name}")}
        for name in ("in_flight", "restarts_total")
    )
    for labels, up in sorted(_latest(window, "pointsman_worker_up"), key=lambda one: int(one[0]["worker"])):
        worker = labels["worker"]
        yield WorkerFigures(worker, up > 0, in_flight.get(worker, 0.0), restarts.get(worker, 0.0))


def lora_figures(window: Window) -> LoraFigures | None:
    """Computes a lora-server's figures over the time window `window`; returns None until there are two scrapes."""
    if not window.seconds or window.latest is None:
        return None
    return LoraFigures(
        seconds=window.seconds,
        engine_up=_is_set(window, "pointsman_lora_engine_up"),
        engine_restarts=window.latest.value("pointsman_lora_engine_restarts_total"),
        slots=window.latest.value("pointsman_lora_slots"),
        resident=window.latest.value("pointsman_lora_resident_adapters"),
        loads=_by(window, "pointsman_lora_adapter_loads_total", "result"),
        evictions=window.total("pointsman_lora_adapter_evictions_total"),
        redis_up=_is_set(window, "pointsman_lora_redis_up"),
    )


class _Paths:
    """The growth of the gateway's counters in a time window, grouped by path."""

    def __init__(self, window: Window) -> None:
        self._seconds = window.seconds
        self._requests = _by(window, "pointsman_requests_total", "path")
        self.everyones = sum(self._requests.values())
        self._whole = _buckets(window, "pointsman_request_duration_seconds")
        self._first_token = _buckets(window, "pointsman_time_to_first_token_seconds")
        self._dollars = _by(window, "pointsman_cost_usd_total", "path")
        self._fallbacks = _by(window, "pointsman_fallbacks_total", "source")
        self._tokens = _tokens(window)
        self._failures = _failures(window)

    def figures(self, path: str, kind: str) -> PathFigures:
        requests = self._requests.get(path, 0.0)
        return PathFigures(
            path=path,
            kind=kind,
            requests=requests,
            share=requests / self.everyones if self.everyones else None,
            requests_per_second=requests / self._seconds,
            seconds=Quantiles.of(self._whole.get(path, {})),
            first_token_seconds=Quantiles.of(self._first_token.get(path, {})),
            tokens_per_second={sort: self._tokens.get((path, sort), 0.0) / self._seconds for sort in TOKENS},
            usd_per_1k_requests=1000 * self._dollars.get(path, 0.0) / requests if requests else None,
            fallbacks=self._fallbacks.get(path, 0.0),
            failures=None if self._failures is None else self._failures.get(path, 0.0),
        )


def _known_paths(window: Window) -> dict[str, str]:
    """Returns the kind of every path that had a request since the gateway's start, by path.

    The path with the most requests is first. A path with several kinds has that with the most requests.
    """
    totals: dict[str, float] = defaultdict(float)
    kinds: dict[str, tuple[float, str]] = {}
    for labels, value in _latest(window, "pointsman_requests_total"):
        path = labels.get("path", "")
        totals[path] += value
        kinds[path] = max(
            kinds.get(path, (-1.0, "")), (value, labels.get("kind", ""))
        )  # "other" may have several kinds
    return {path: kinds[path][1] for path in sorted(totals, key=lambda path: (-totals[path], path))}


def _failures(window: Window) -> dict[str, float] | None:
    if any("fault" not in labels for labels, _ in _latest(window, "pointsman_requests_total")):
        return None
    failures: dict[str, float] = defaultdict(float)
    for labels, amount in window.growth("pointsman_requests_total"):
        if labels.get("fault") not in CLIENT_FAULTS:
            failures[labels.get("path", "")] += amount
    return failures


def _tokens(window: Window) -> dict[tuple[str, str], float]:
    """Returns the number of tokens in the window by path and token type."""
    tokens: dict[tuple[str, str], float] = defaultdict(float)
    for labels, amount in window.growth("pointsman_tokens_total"):
        tokens[labels.get("path", ""), labels.get("type", "")] += amount
    return tokens


def _by(window: Window, name: str, label: str) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for labels, amount in window.growth(name):
        sums[labels.get(label, "")] += amount
    return dict(sums)


def _buckets(window: Window, name: str) -> dict[str, dict[float, float]]:
    """Returns the growth of a histogram's buckets by path ("" without one) and upper edge, summed over other labels."""
    buckets: dict[str, dict[float, float]] = defaultdict(dict)
    for labels, _ in _latest(window, f"{name}_bucket"):
        buckets[labels.get("path", "")][float(labels["le"])] = 0.0  # keep edges whose bucket did not grow
    for labels, amount in window.growth(f"{name}_bucket"):
        edges, edge = buckets[labels.get("path", "")], float(labels["le"])
        edges[edge] = edges.get(edge, 0.0) + amount
    return buckets


def _latest(window: Window, name: str) -> Iterator[tuple[dict[str, str], float]]:
    assert window.latest is not None
    for labels, value in window.latest.samples.get(name, {}).items():
        yield dict(labels), value


def _is_set(window: Window, gauge: str) -> bool | None:
    assert window.latest is not None
    value = window.latest.value(gauge)
    return None if value is None else value > 0
