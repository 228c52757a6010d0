"""The state of each engine: its last report, its breaker and its load."""

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakSet

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.providers import DEFAULT_API, EngineApi
from pointsman_gateway.domain import CanaryMetrics
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient
from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog

NOT_REPORTED = "its state has not been reported yet"


@dataclass(frozen=True, slots=True)
class Engine:
    """The facts about one engine, as configured and as last reported."""

    name: str
    model: str
    url: str = ""
    ready: bool = False
    resident: frozenset[str] = frozenset()
    catalog: AdapterCatalog = EMPTY
    """What its lora-server knows of the registry; `Aliases` decides which report of an alias counts."""
    detail: str = NOT_REPORTED
    api: EngineApi = DEFAULT_API
    upstream: str = ""
    """Its own name for the model; empty if that is the same."""
    has_fixed_adapters: bool = False
    """Whether `resident` is configured, so that nothing would report an adapter again."""
    sequence: int = 0
    """Of the lora-server's report."""
    group: str = ""
    """The name in models.yaml, if the engine is a member of a group. Its own name is then `group/NUMBER`."""
    endpoint: str = ""
    """HOST:PORT of a group's member. Each gateway numbers the members itself, but all know them by their endpoint."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Adapters that the engine lists and that no request may use, with the reason; only with `adapters: discover`."""

    @property
    def has_reported(self) -> bool:
        return self.ready or self.detail != NOT_REPORTED

    @property
    def upstream_model(self) -> str:
        return self.upstream or self.model

    def serves(self, model: str, version: str) -> bool:
        """Returns whether the engine can answer with the model, or with the adapter version if there is one."""
        return self.ready and self.model == model and (not version or version in self.resident)

    def can_load(self, version: str) -> bool:
        """Returns whether the version is not resident, and the lora-server can load it into the engine."""
        return version in self.catalog.versions and version not in self.resident

    def knows(self, version: str) -> bool:
        return version in self.resident or version in self.catalog.versions

    def with_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine in which the version is resident."""
        return replace(self, resident=self.resident | {version}, catalog=self._catalog_with(version))

    def without_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine in which the version is not resident, but can be loaded."""
        return replace(self, resident=self.resident - {version}, catalog=self._catalog_with(version))

    def _catalog_with(self, version: str) -> AdapterCatalog:
        seconds = self.catalog.training_seconds
        known = {version: seconds[version]} if version in seconds else {}
        return self.catalog.after([version], training_seconds=known)


class LoraServer(Protocol):
    """The control plane of one engine, which loads its adapters."""

    def cooldown_left(self, version: str) -> float:
        """Returns the seconds until a version that failed to load may be requested again; 0 if it may be now."""
        ...

    async def facts(self, version: str) -> Mapping[str, str]:
        """Returns the facts in the version's manifest; raises PointsmanError."""
        ...

    async def ensure(self, version: str, seconds: float) -> None:
        """Loads a version, and returns once the engine's state has it.

        Raises Unavailable if that fails or takes longer than `seconds`.
        """
        ...

    async def report(self, outcomes: Sequence[CanaryMetrics]) -> str:
        """Sends canary outcomes; returns "sent", "refused", "lost" (may have arrived) or "kept" (did not arrive)."""
        ...


class EngineObserver(Protocol):
    """Keeps something that depends on what engines report."""

    def on_report(self, state: "EngineState", before: Engine) -> None:
        """Is called after `state.engine` has changed from `before`."""
        ...


class EngineState:
    """The mutable state of one engine. All configurations that contain the engine share it."""

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
        """None if it has none, or while nothing watches it."""
        self.adapter_admin: AdapterAdminClient | None = None
        """Set and unset together with `lora_server`."""
        self.clock = clock
        self.breaker = Breaker(clock)
        self.in_flight = 0
        """Requests of this gateway that the engine is answering."""
        self.seed = zlib.crc32((engine.endpoint or engine.name).encode())
        """For rendezvous hashing of prompts; the same in every gateway."""
        self.observers = WeakSet[EngineObserver]()
        """Those of old configurations disappear with the last request that uses them."""
        self._cooldown_until = 0.0

    def update(self, engine: Engine) -> None:
        before, self.engine = self.engine, engine
        for observer in self.observers:
            observer.on_report(self, before)

    def mark_evicted(self, version: str, reported: Engine) -> None:
        """Records that the engine has rejected a version as not resident, unless its state has changed since
        `reported`, or its adapters are configured.
        """
        if self.engine is reported and not reported.has_fixed_adapters:
            self.update(reported.without_adapter(version))

    def may_load(self, version: str) -> bool:
        return self.lora_server is not None and not self.lora_server.cooldown_left(version) and self.is_available

    def cool_down(self, seconds: float) -> None:
        """Makes the engine unavailable for `seconds`, because it has answered with a Retry-After; a retired one stays
        so for good.
        """
        if not self.is_retired:
            self._cooldown_until = self.clock() + seconds

    def retire(self) -> None:
        """Makes the engine unavailable for good, also to requests that have selected but not called it yet."""
        self._cooldown_until = math.inf

    @property
    def is_retired(self) -> bool:
        """Returns whether the engine no longer belongs to its group."""
        return self._cooldown_until == math.inf

    @property
    def cooldown_left(self) -> float:
        """Returns the seconds until the engine may get requests again; infinite if it is retired."""
        return max(0.0, self._cooldown_until - self.clock()) if self._cooldown_until else 0.0

    @property
    def is_available(self) -> bool:
        """Returns whether the engine may get a request now, by its breaker and its cooldown."""
        if self.breaker.closed and not self._cooldown_until:
            return True
        return self.breaker.may_enter() and not self.cooldown_left
