"""Defines the Prometheus metrics of the lora-server."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from pointsman_servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PointsmanError,
    ResourceExhausted,
)
from pointsman_servicekit.logs import sampled_trace_id
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pointsman_lora_server.domain import DesiredState, EngineState, EngineStatus, VersionState, state_of

DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)

GEN_AI_BUCKETS = (.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)  # fmt: skip
"""Histogram buckets for durations of requests to models, in seconds, as recommended by OpenTelemetry's conventions for
generative AI (semantic-conventions v1.41.0)."""

ANY_ADAPTER = "other"
"""The value of the model label that `observe_completion` uses for all adapters, since the number of values of a label
must be limited."""

LOAD_RESULTS = ("loaded", "refused", "no_slot", "failed")
LOAD_REQUEST_RESULTS = ("resident", "joined", "loaded", "failed")
VALIDATION_RESULTS = ("ready", "failed", "interrupted")
EVICTION_REASONS = ("room", "retired")
MOVE_REASONS = ("first_copy", "demand", "balance")
"""The values of the reason label of planned loads, equal to those of `MoveReason`."""
MAX_LISTED_VERSIONS = 50
"""The largest number of adapter versions that the metric of placed copies names; those with the most copies are
named."""
LOAD_STEPS = ("fetch", "turn", "room", "engine", "trial", "probe", "comparison")
"""The steps of loading an adapter version, in order: reading it from the store and checking the hash, waiting for other
loads, evicting another version, reading the weights into the engine, the first answer, probing the base model,
comparing with PEFT."""


class LoraServerMetrics:
    """The Prometheus metrics that other modules of the lora-server update, in their own `registry`."""

    def __init__(self, base_model: str) -> None:
        """Creates the metrics; `base_model` is the name under which the engine serves the base model."""
        self._base_model = base_model
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Counter:
            created = Counter(f"pointsman_lora_{name}", text, [label] if label else [], registry=registry)
            for value in values:
                created.labels(value)  # exported as 0 from the start, so that a rate includes the first increment
            return created

        def histogram(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Histogram:
            created = Histogram(
                f"pointsman_lora_{name}_seconds",
                text,
                [label] if label else [],
                buckets=DURATION_BUCKETS,
                registry=registry,
            )
            for value in values:
                created.labels(value)
            return created

        self._loads = counter("adapter_loads", "Loads of adapters into the engine.", "result", LOAD_RESULTS)
        self._load_duration = histogram(
            "adapter_load_duration", "Duration of successful loads, from the start of the load to the first answer."
        )
        self._load_steps = histogram(
            "adapter_load_step_duration", "Duration of the steps of loads, failed ones included.", "step", LOAD_STEPS
        )
        self._load_requests = counter(
            "adapter_load_requests",
            "Requests for an adapter to be loaded, by how they were met.",
            "result",
            LOAD_REQUEST_RESULTS,
        )
        self._evictions = counter("adapter_evictions", "Adapters unloaded from the engine.", "reason", EVICTION_REASONS)
        self._slot_wait = histogram("slot_wait", "Time that loads waited for a slot.")
        self._validations = counter("validations", "Smoke tests of versions.", "result", VALIDATION_RESULTS)
        self._validation_duration = histogram("validation_duration", "Duration of smoke tests, whatever their result.")
        self._canary_rollbacks = counter("canary_rollbacks", "Canaries rolled back automatically.")
        self._redis_up = Gauge("pointsman_lora_redis_up", "1 if Redis answers in time, else 0.", registry=registry)
        self._redis_up.set(1)
        self._info = Gauge(
            "pointsman_lora_info",
            "Always 1; the labels are the engine's settings.",
            ["engine", "base_model", "held", "max_loras", "max_lora_rank"],
            registry=registry,
        )
        self._completions = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Duration of completions for probes of the base model and for warm-ups of adapters.",
            ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
            buckets=GEN_AI_BUCKETS,
            registry=registry,
        )
        self._in_use = Gauge(
            "pointsman_lora_adapters_in_use",
            "Adapters that requests in flight use; if more than batch_slots, some wait for a place in the batch.",
            registry=registry,
        )
        self._moves = counter(
            "placement_moves", "Copies that placement by demand has planned to load.", "reason", MOVE_REASONS
        )
        self._placed_copies = Gauge(
            "pointsman_lora_placement_copies",
            f"Planned copies of the {MAX_LISTED_VERSIONS} versions with the most; at the deciding lora-server only.",
            ["version"],
            registry=registry,
        )
        self._unplaced = Gauge(
            "pointsman_lora_placement_unplaced",
            "Versions placed by demand for which there is no slot; at the deciding lora-server only.",
            registry=registry,
        )
        self._probe_failures = counter("probe_failures", "Probes that the base model answered differently than before.")

    def set_info(self, engine: str, held: int, max_loras: int, max_lora_rank: int) -> None:
        self._info.clear()
        self._info.labels(engine, self._base_model, str(held), str(max_loras), str(max_lora_rank)).set(1)

    @contextmanager
    def time_load(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except InvalidArgument:
            self._loads.labels("refused").inc()
            raise
        except ResourceExhausted:
            self._loads.labels("no_slot").inc()
            raise
        except BaseException:
            self._loads.labels("failed").inc()
            raise
        self._loads.labels("loaded").inc()
        self._load_duration.observe(time.perf_counter() - started)

    @contextmanager
    def time_load_step(self, step: str) -> Iterator[None]:
        """Records the duration of the block, even if the block fails. `step` is one of LOAD_STEPS."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._load_steps.labels(step).observe(time.perf_counter() - started)

    @contextmanager
    def time_validation(self) -> Iterator[None]:
        started, result = time.perf_counter(), "ready"
        try:
            yield
        except PointsmanError as error:
            is_verdict = isinstance(error, InvalidArgument | NotFound | FailedPrecondition)
            result = "failed" if is_verdict else "interrupted"
            raise
        except BaseException:
            result = "interrupted"
            raise
        finally:
            self._validations.labels(result).inc()
            self._validation_duration.observe(time.perf_counter() - started)

    def count_load_request(self, result: str) -> None:
        self._load_requests.labels(result).inc()

    def count_eviction(self, reason: str) -> None:
        self._evictions.labels(reason).inc()

    def observe_slot_wait(self, seconds: float) -> None:
        self._slot_wait.observe(seconds)
        self._load_steps.labels("room").observe(seconds)

    def set_in_use(self, adapters: int) -> None:
        """Sets the number of adapters that requests were using when the engine was last asked."""
        self._in_use.set(adapters)

    def count_canary_rollback(self) -> None:
        self._canary_rollbacks.inc()

    def count_placement_move(self, reason: str) -> None:
        self._moves.labels(reason).inc()

    def set_placed_copies(self, copies: Mapping[str, int], unplaced: int) -> None:
        """Sets the number of copies of each adapter version in the placement plan, and the number of versions without a
        copy.
        """
        self._placed_copies.clear()
        for version, number in sorted(copies.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED_VERSIONS]:
            self._placed_copies.labels(version).set(number)
        self._unplaced.set(unplaced)

    def set_redis_up(self, is_up: bool) -> None:
        self._redis_up.set(int(is_up))

    def observe_completion(self, model: str, error_code: str, seconds: float) -> None:
        label = model if model == self._base_model else ANY_ADAPTER
        trace_id = sampled_trace_id()
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._completions.labels("text_completion", "vllm", label, error_code).observe(seconds, exemplar)

    def count_probe_failure(self) -> None:
        self._probe_failures.inc()


class VersionStateCollector(Collector):
    """Exports metrics of the engine and of the adapter versions' states, computed at each scrape.

    Only the counter of version transitions is not computed at the scrape: call `count_transitions` after each change.
    Labels are states, never version names.
    """

    def __init__(
        self,
        desired: Callable[[], DesiredState],
        engine: Callable[[], EngineState],
        slots: Callable[[], int],
        batch_slots: int,
        registry: CollectorRegistry,
    ) -> None:
        """Registers the collector with `registry`.

        `desired` and `engine` are functions that return the current states, and `slots` returns the number of adapters
        that the engine can hold. They are called in the thread of the scrape, so they must return immutable values.
        `batch_slots` is the number of different adapters in one batch.
        """
        self._desired = desired
        self._engine = engine
        self._slots = slots
        self._batch_slots = batch_slots
        self._seen: DesiredState | None = None
        self._held: frozenset[str] = frozenset()
        self._states: dict[str, VersionState] = {}
        """The state of each version at the last call of `count_transitions`; `_seen` and `_held` were also set in that
        call."""
        self._transitions: collections.Counter[VersionState] = collections.Counter()
        registry.register(self)

    def count_transitions(self) -> None:
        """Counts one transition for each adapter version whose state has changed since the last call.

        The first call counts nothing. States that a version entered and left between two calls are missed.
        """
        desired, engine = self._desired(), self._engine()
        changed = None if self._seen is None else desired.changed_since(self._seen)
        held = engine.resident | engine.loading | engine.draining
        for name in {*self._states, *desired.phases} if changed is None else {*changed, *held, *self._held}:
            if name not in desired.phases:
                self._states.pop(name, None)
                continue
            state = state_of(name, desired, engine)
            if self._seen is not None and self._states.get(name) is not state:
                self._transitions[state] += 1
            self._states[name] = state
        self._seen, self._held = desired, held

    def describe(self) -> Iterable[Metric]:
        """Returns no descriptions. Without this method, the registry would call `collect` before the server starts."""
        return []

    def collect(self) -> Iterable[Metric]:
        engine, desired = self._engine(), self._desired()
        is_up = engine.status is EngineStatus.READY
        yield GaugeMetricFamily("pointsman_lora_engine_up", "1 if the engine answers, else 0.", value=int(is_up))
        yield CounterMetricFamily("pointsman_lora_engine_restarts", "Restarts of the engine.", value=engine.restarts)
        yield GaugeMetricFamily(
            "pointsman_lora_slots", "Adapters that the engine can hold in its host memory.", value=self._slots()
        )
        yield GaugeMetricFamily(
            "pointsman_lora_batch_slots", "Different adapters that one batch can use.", value=self._batch_slots
        )
        yield GaugeMetricFamily(
            "pointsman_lora_resident_adapters",
            "Adapters that the engine holds in its host memory.",
            value=len(engine.resident),
        )
        yield GaugeMetricFamily(
            "pointsman_lora_pinned_adapters", "Versions that every engine must hold.", value=len(desired.pins)
        )
        versions = GaugeMetricFamily(
            "pointsman_lora_adapter_versions", "Versions by their state on this engine.", labels=["state"]
        )
        transitions = CounterMetricFamily(
            "pointsman_lora_version_transitions", "Times that a version entered the state.", labels=["state"]
        )
        counts = collections.Counter(state_of(name, desired, engine) for name in desired.phases)
        for state in VersionState:
            versions.add_metric([state.value], counts[state])
            transitions.add_metric([state.value], self._transitions[state])
        yield versions
        yield transitions
