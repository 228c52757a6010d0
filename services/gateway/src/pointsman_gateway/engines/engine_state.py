"""The mutable state of each engine: its last report, its circuit breaker and its number of requests in flight."""

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakSet

from pointsman_servicekit.canary_reports import CanaryReport

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.providers import DEFAULT_API, EngineApi
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog

NOT_REPORTED = "its state has not been reported yet"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, such as a vLLM server: its configuration and its last reported state.

    Immutable: each new report makes a new object.
    """

    name: str
    model: str
    url: str = ""
    ready: bool = False
    resident: frozenset[str] = frozenset()
    """The adapter versions that are loaded in the engine."""
    catalog: AdapterCatalog = EMPTY
    """The adapter versions and aliases that its lora-server reports. If lora-servers report different targets of an
    alias, `Aliases` decides which counts."""
    detail: str = NOT_REPORTED
    api: EngineApi = DEFAULT_API
    upstream: str = ""
    """The engine's own name for the model; empty if it is `model`."""
    has_fixed_adapters: bool = False
    """Whether `resident` comes from the configuration and never changes, because nothing reports adapters."""
    sequence: int = 0
    """The sequence number of the lora-server's last report."""
    group: str = ""
    """If the engine is a member of a group, the group's name in models.yaml; `name` is then "GROUP/NUMBER"."""
    endpoint: str = ""
    """HOST:PORT of a group's member; empty for an engine outside groups. Gateways may number the members differently,
    but all use the same endpoints."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """The reason by name for each adapter that the engine lists but no request may use; only with
    `adapters: discover`."""

    @property
    def has_reported(self) -> bool:
        return self.ready or self.detail != NOT_REPORTED

    @property
    def upstream_model(self) -> str:
        return self.upstream or self.model

    def serves(self, model: str, version: str) -> bool:
        """Returns whether the engine is ready, serves the base model `model`, and has loaded the adapter version
        `version`. An empty `version` stands for the base model without an adapter.
        """
        return self.ready and self.model == model and (not version or version in self.resident)

    def can_load(self, version: str) -> bool:
        """Returns whether the engine has not loaded the adapter version, but its lora-server can load it."""
        return version in self.catalog.versions and version not in self.resident

    def knows(self, version: str) -> bool:
        return version in self.resident or version in self.catalog.versions

    def with_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine that has the adapter version loaded."""
        return replace(self, resident=self.resident | {version}, catalog=self._catalog_with(version))

    def without_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine that does not have the adapter version loaded, but can load it."""
        return replace(self, resident=self.resident - {version}, catalog=self._catalog_with(version))

    def _catalog_with(self, version: str) -> AdapterCatalog:
        seconds = self.catalog.training_seconds
        known = {version: seconds[version]} if version in seconds else {}
        return self.catalog.after([version], training_seconds=known)


class LoraServer(Protocol):
    """Interface of a client for one engine's lora-server, the service that loads adapters into the engine.

    `LoraServerClient` implements it.
    """

    def cooldown_left(self, version: str) -> float:
        """Returns the seconds until the engine may be asked again to load an adapter version that has failed to load;
        0 if it may be asked now.
        """
        ...

    async def facts(self, version: str) -> Mapping[str, str]:
        """Returns the registry's notes on how the adapter version was made: texts by name, such as "train_rows".

        Raises the lora-server's own errors, such as NotFound for an unknown version; Unavailable if the lora-server
        cannot be reached; and DeadlineExceeded if it does not answer in time.
        """
        ...

    async def ensure(self, version: str, seconds: float) -> None:
        """Loads an adapter version into the engine, and returns once the engine's state shows it as loaded.

        Concurrent calls for the same version share one load and the time limit of the first call. Raises Unavailable
        if the load fails or takes longer than `seconds`.
        """
        ...

    async def report(self, reports: Sequence[CanaryReport]) -> str:
        """Sends the lora-server the counts of outcomes of requests to a canary, an adapter version under trial.

        Returns "sent", "refused" (the lora-server rejects them), "lost" (it is unknown whether they have arrived) or
        "kept" (they have not arrived, and may be sent again).
        """
        ...


class EngineObserver(Protocol):
    """Interface of an object that is called after each report on an engine; `Engines` implements it."""

    def on_report(self, state: "EngineState", before: Engine) -> None:
        """Handles a report that has replaced `state.engine`; `before` is the engine as it was before the report."""
        ...


class EngineState:
    """The mutable state of one engine: its last report, circuit breaker, cooldown and number of requests in flight.

    One object per engine is shared by all configurations that contain the engine.
    """

    __slots__ = (
        "_cooldown_until",
        "adapter_admin",
        "breaker",
        "clock",
        "engine",
        "in_flight",
        "lora_server",
        "observers",
        "seed",
    )

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self.lora_server: LoraServer | None = None
        """The client of the engine's lora-server; None if the engine has no lora-server, or while the gateway does not
        watch it."""
        self.adapter_admin: AdapterAdminClient | None = None
        """The client that administers the engine's adapters; it is set and unset together with `lora_server`."""
        self.clock = clock
        self.breaker = Breaker(clock)
        self.in_flight = 0
        """Number of requests of this gateway that the engine is answering."""
        self.seed = zlib.crc32((engine.endpoint or engine.name).encode())
        """A hash of the endpoint or name, by which `balancing` chooses engines; the same in every gateway."""
        self.observers = WeakSet[EngineObserver]()
        """The objects to call after each report on the engine. They are held weakly: the `Engines` of an old
        configuration disappear with the last request that uses them."""
        self._cooldown_until = 0.0

    def update(self, engine: Engine) -> None:
        before, self.engine = self.engine, engine
        for observer in self.observers:
            observer.on_report(self, before)

    def mark_evicted(self, version: str, reported: Engine) -> None:
        """Records that the engine no longer has the adapter version loaded, because it has rejected a request for it.

        `reported` is the value of `self.engine` when that request was sent. Does nothing if `self.engine` has changed
        since then, or if the engine's adapters are set by the configuration (`has_fixed_adapters`).
        """
        if self.engine is reported and not reported.has_fixed_adapters:
            self.update(reported.without_adapter(version))

    def may_load(self, version: str) -> bool:
        return self.lora_server is not None and not self.lora_server.cooldown_left(version) and self.is_available

    def cool_down(self, seconds: float) -> None:
        """Makes the engine unavailable for `seconds` from now, because its response had a Retry-After header.

        Replaces the remaining time of an earlier cooldown. Does nothing for a retired engine, which stays unavailable.
        """
        if not self.is_retired:
            self._cooldown_until = self.clock() + seconds

    def retire(self) -> None:
        """Makes the engine unavailable for good, because it has left its group.

        This includes requests that have already selected the engine, but have not called it yet.
        """
        self._cooldown_until = math.inf

    @property
    def is_retired(self) -> bool:
        """Returns whether `retire` was called, because the engine has left its group."""
        return self._cooldown_until == math.inf

    @property
    def cooldown_left(self) -> float:
        """Returns the seconds until the engine may be called again after a Retry-After; 0 if it may be called now.

        Returns infinity if the engine is retired.
        """
        return max(0.0, self._cooldown_until - self.clock()) if self._cooldown_until else 0.0

    @property
    def is_available(self) -> bool:
        """Returns whether the circuit breaker and the cooldown allow a request now. Does not check `engine.ready`."""
        if self.breaker.closed and not self._cooldown_until:
            return True
        return self.breaker.may_enter() and not self.cooldown_left
