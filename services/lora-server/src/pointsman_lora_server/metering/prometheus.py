"""What the lora-server counts and times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PointsmanError,
    ResourceExhausted,
)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)

LOADS = ("loaded", "refused", "no_slot", "failed")
ENSURES = ("resident", "joined", "loaded", "failed")
VALIDATIONS = ("ready", "failed", "broken_off")
EVICTIONS = ("room", "retired")


class Metrics:
    """Implements the meters of the slots, the loads, the validation, the probe and the canaries."""

    def __init__(self) -> None:
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
        self._probe_failures = counter("probe_failures", "Times that the base model did not answer as it had before.")

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

    def probe_failed(self) -> None:
        self._probe_failures.inc()
