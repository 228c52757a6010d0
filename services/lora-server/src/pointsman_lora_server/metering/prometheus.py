"""What the lora-server counts and times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError, ResourceExhausted
from pointsman_servicekit.logs import sampled_trace_id
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)

GEN_AI_SECONDS = (.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)  # fmt: skip
"""The buckets of OpenTelemetry's conventions for generative AI (semantic-conventions v1.41.0)."""

ADAPTER = "other"
"""What stands for any adapter in a label: adapters come and go without a change of the configuration."""

LOADS = ("loaded", "refused", "no_slot", "failed")
ENSURES = ("resident", "joined", "loaded", "failed")
VALIDATIONS = ("ready", "failed", "broken_off")
EVICTIONS = ("room", "retired")


class Metrics:
    """Implements the meters of the slots, the loads, the validation, the probe, the answers and the canaries."""

    def __init__(self, base_model: str) -> None:
        """`base_model` is the name that the engine serves it under."""
        self._base_model = base_model
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Counter:
            made = Counter(f"pointsman_lora_{name}", text, [label] if label else [], registry=registry)
            for value in values:
                made.labels(value)  # told from the beginning, so that a rate is right from the first one on
            return made

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"pointsman_lora_{name}_seconds", text, buckets=SECONDS, registry=registry)

        self._loads = counter("loads", "Adapters brought into the engine.", "result", LOADS)
        self._load_seconds = histogram("load", "Of a load that succeeded, from its turn to the adapter's first answer.")
        self._ensures = counter("ensures", "How it stood with a version that was asked for.", "result", ENSURES)
        self._evictions = counter("evictions", "Adapters taken out of the engine.", "reason", EVICTIONS)
        self._slot_waits = histogram("slot_wait", "That a load waited for a slot.")
        self._validations = counter("validations", "Trials of versions apart from the engine.", "result", VALIDATIONS)
        self._validation_seconds = histogram("validation", "Of a trial, whatever its result.")
        self._canary_rollbacks = counter("canary_rollbacks", "Canaries that were taken back for doing worse.")
        self._redis_up = Gauge("pointsman_lora_redis_up", "1 where Redis answers in time.", registry=registry)
        self._redis_up.set(1)
        self._info = Gauge(
            "pointsman_lora_info",
            "1; what the engine is started with.",
            ["engine", "base_model", "max_loras", "max_lora_rank"],
            registry=registry,
        )
        self._completions = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Of an engine's answer to a probe of the base model, or to a first prompt of an adapter.",
            ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
            buckets=GEN_AI_SECONDS,
            registry=registry,
        )
        self._probe_failures = counter("probe_failures", "Times that the base model did not answer as it had before.")

    def configured(self, engine: str, max_loras: int, max_lora_rank: int) -> None:
        self._info.labels(engine, self._base_model, str(max_loras), str(max_lora_rank)).set(1)

    @contextmanager
    def loading(self) -> Iterator[None]:
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
        self._load_seconds.observe(time.perf_counter() - started)

    @contextmanager
    def validating(self) -> Iterator[None]:
        started, result = time.perf_counter(), "ready"
        try:
            yield
        except PointsmanError as error:
            failed = isinstance(error, InvalidArgument | NotFound | FailedPrecondition)
            result = "failed" if failed else "broken_off"
            raise
        except BaseException:
            result = "broken_off"
            raise
        finally:
            self._validations.labels(result).inc()
            self._validation_seconds.observe(time.perf_counter() - started)

    def ensured(self, result: str) -> None:
        self._ensures.labels(result).inc()

    def evicted(self, why: str) -> None:
        self._evictions.labels(why).inc()

    def waited_for_slot(self, seconds: float) -> None:
        self._slot_waits.observe(seconds)

    def canary_rolled_back(self) -> None:
        self._canary_rollbacks.inc()

    def redis_answers(self, answers: bool) -> None:
        self._redis_up.set(int(answers))

    def completed(self, model: str, error: str, seconds: float) -> None:
        named = model if model == self._base_model else ADAPTER
        trace_id = sampled_trace_id()
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._completions.labels("text_completion", "vllm", named, error).observe(seconds, exemplar)

    def probe_failed(self) -> None:
        self._probe_failures.inc()
