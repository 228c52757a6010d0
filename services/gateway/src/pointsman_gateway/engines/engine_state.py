"""The state of each engine: its last report, its circuit breaker and its load."""

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
    """One engine, as configured and as last reported. It is immutable: each report makes a new one."""

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
    """HOST:PORT of a group's member. Gateways may number the members differently, but use the same endpoints."""
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
        """Returns whether the engine is ready, has the base model, and has loaded the adapter version, if one is given
        (`version` is not empty).
        """
        return self.ready and self.model == model and (not version or version in self.resident)

    def can_load(self, version: str) -> bool:
        """Returns whether the version is not resident, but known to the engine's lora-server, which can load it."""
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
    """Interface of the client of one engine's lora-server, which loads the engine's adapters; `LoraServerClient`
    implements it.
    """

    def cooldown_left(self, version: str) -> float:
        """Returns the seconds until a version that failed to load may be requested again; 0 if it may be now."""
        ...

    async def facts(self, version: str) -> Mapping[str, str]:
        """Returns the registry's notes on how the version was made: texts by name ("train_rows", "heldout_loss").

        Raises the lora-server's own errors, such as NotFound for an unknown version; Unavailable if the lora-server
        cannot be reached; and DeadlineExceeded if it is too slow.
        """
        ...

    async def ensure(self, version: str, seconds: float) -> None:
        """Loads a version into the engine, and returns once the engine's state shows it as loaded.

        Concurrent calls for the same version share one load and the time limit of the first call. Raises Unavailable if
        the load fails or takes longer than `seconds`.
        """
        ...

    async def report(self, reports: Sequence[CanaryReport]) -> str:
        """Sends canary reports to the lora-server.

        Returns "sent", "refused" (the lora-server rejects them), "lost" (they may have arrived) or "kept" (they have
        not arrived, and may be sent again).
        """
        ...


class EngineObserver(Protocol):
    """Interface of an object that is notified of the reports on engines; `Engines` implements it."""

    def on_report(self, state: "EngineState", before: Engine) -> None:
        """Called after a report has replaced `state.engine`; `before` is the earlier value."""
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
        """The client of the engine's lora-server; None if the engine has none, or while it is not watched."""
        self.adapter_admin: AdapterAdminClient | None = None
        """The client that administers the engine's adapters; it is set and unset together with `lora_server`."""
        self.clock = clock
        self.breaker = Breaker(clock)
        self.in_flight = 0
        """Number of requests of this gateway that the engine is answering."""
        self.seed = zlib.crc32((engine.endpoint or engine.name).encode())
        """A hash of the endpoint or name, by which `balancing` chooses engines; the same in every gateway."""
        self.observers = WeakSet[EngineObserver]()
        """Held weakly: an observer of an old configuration disappears with the last request that uses it."""
        self._cooldown_until = 0.0

    def update(self, engine: Engine) -> None:
        before, self.engine = self.engine, engine
        for observer in self.observers:
            observer.on_report(self, before)

    def mark_evicted(self, version: str, reported: Engine) -> None:
        """Records that the engine no longer has a version, since it has rejected a request for it.

        `reported` is the value of `engine` when the request was sent. If that has changed since, or the adapters are
        configured (`has_fixed_adapters`), nothing is recorded.
        """
        if self.engine is reported and not reported.has_fixed_adapters:
            self.update(reported.without_adapter(version))

    def may_load(self, version: str) -> bool:
        return self.lora_server is not None and not self.lora_server.cooldown_left(version) and self.is_available

    def cool_down(self, seconds: float) -> None:
        """Makes the engine unavailable for `seconds` from now, because it has answered with a Retry-After.

        This replaces the time of an earlier call. A retired engine stays unavailable.
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
        """Returns the seconds that are left of `cool_down`; 0 if none are, infinite if the engine is retired."""
        return max(0.0, self._cooldown_until - self.clock()) if self._cooldown_until else 0.0

    @property
    def is_available(self) -> bool:
        """Returns whether the circuit breaker and the cooldown let a request pass now; `ready` is not checked."""
        if self.breaker.closed and not self._cooldown_until:
            return True
        return self.breaker.may_enter() and not self.cooldown_left
