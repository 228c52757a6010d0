"""The state of each engine (its last report, its breaker and its load), and where all aliases point."""

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.providers import DEFAULT_API, EngineApi
from pointsman_gateway.domain import Alias, CanaryMetrics
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient

NOT_REPORTED = "its state has not been reported yet"

ALIAS_TTL_SECONDS = 60.0
"""How long an alias stays where it was after no lora-server reports it any more.

A lora-server that restarts, and has not read the registry yet, therefore moves no alias back. A registry that was
emptied, and counts revisions from 1 again, is accepted after this time."""

_Key = tuple[str, str]
"""The base model, and the alias."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The facts about one engine, as configured and as last reported."""

    name: str
    model: str
    url: str = ""
    ready: bool = False
    resident: frozenset[str] = frozenset()
    loadable: frozenset[str] = frozenset()
    """Versions that are not resident, and that the lora-server can load into the engine."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    """As its lora-server reported them; `Aliases` decides which report counts."""
    detail: str = NOT_REPORTED
    api: EngineApi = DEFAULT_API
    upstream: str = ""
    """Its own name for the model; empty if that is the same."""
    has_fixed_adapters: bool = False
    """Whether `resident` is configured, so that nothing would report an adapter again."""
    sequence: int = 0
    """Of the lora-server's report."""
    training_seconds: Mapping[str, float] = field(default_factory=dict)
    """By version, if it is known."""
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

    def knows(self, version: str) -> bool:
        return version in self.resident or version in self.loadable

    def with_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine in which the version is resident."""
        return replace(self, resident=self.resident | {version}, loadable=self.loadable - {version})

    def without_adapter(self, version: str) -> "Engine":
        """Returns a copy of the engine in which the version is not resident."""
        return replace(self, resident=self.resident - {version}, loadable=self.loadable | {version})


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
        """Sends canary outcomes: "sent", "refused", "lost" (may have arrived) or "kept" (did not arrive)."""
        ...


class EngineState:
    """The mutable state of one engine. All configurations that contain the engine share it."""

    version = 0
    """Global version, incremented on every update of any engine; cached lookups are valid until it changes."""

    __slots__ = ("_cooldown_until", "adapter_admin", "breaker", "clock", "engine", "in_flight", "lora_server", "seed")

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
        self._cooldown_until = 0.0

    def update(self, engine: Engine) -> None:
        self.engine = engine
        EngineState.version += 1

    def mark_evicted(self, version: str, reported: Engine) -> None:
        """Removes a version that the engine has rejected, unless its state is newer than `reported`."""
        if self.engine is reported and not reported.has_fixed_adapters:
            self.update(reported.without_adapter(version))

    def may_load(self, version: str) -> bool:
        return self.lora_server is not None and not self.lora_server.cooldown_left(version) and self.is_available

    def cool_down(self, seconds: float) -> None:
        """Sends the engine no requests for `seconds`, because it has answered with a Retry-After."""
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


@dataclass(frozen=True, slots=True)
class _AliasReport:
    """The aliases in the last report of one engine's lora-server."""

    model: str
    aliases: Mapping[str, Alias]


class Aliases:
    """Where aliases point, by the highest revision that any lora-server of the model reports.

    The lora-servers of one model read one registry, some of them later than others. All engines and configurations
    share one table, so that an alias moves everywhere at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._current: dict[_Key, Alias] = {}
        self._reports: dict[str, _AliasReport] = {}
        """By engine."""
        self._unreported_since: dict[_Key, float] = {}
        """When the last report of what `_current` holds ended."""

    def get(self, model: str, alias: str) -> Alias | None:
        return self._current.get((model, alias))

    def of(self, model: str) -> Sequence[Alias]:
        return [alias for (of_model, _), alias in self._current.items() if of_model == model]

    def update(self, engine: str, model: str, aliases: Mapping[str, Alias]) -> None:
        """Stores the `aliases` of `model` that `engine`'s lora-server reports; of equal revisions the latest counts."""
        before = self._reports.get(engine)
        known = before.aliases if before is not None and before.model == model else {}
        changed = [a for name, a in aliases.items() if (earlier := known.get(name)) is not a and earlier != a]
        self._reports[engine] = _AliasReport(model, aliases)
        for alias in changed:
            current = self._current.get((model, alias.alias))
            if current is None or alias.revision >= current.revision:
                self._current[model, alias.alias] = alias
        gone = {(model, name) for name in known.keys() - aliases.keys()} if known else _keys(before)
        self._expire(gone | {(model, alias.alias) for alias in changed})

    def forget(self, engine: str) -> None:
        """Drops the reports of an engine that is no longer watched."""
        self._expire(_keys(self._reports.pop(engine, None)))

    def _expire(self, touched: set[_Key]) -> None:
        """Replaces aliases unreported for `ALIAS_TTL_SECONDS` by the newest reported one, or removes them."""
        for key in touched | self._unreported_since.keys():
            known = self._current.get(key)
            if known is None:
                continue
            newest = max(self._reported(key), key=lambda alias: alias.revision, default=None)
            if newest is not None and newest.revision >= known.revision:
                self._unreported_since.pop(key, None)
            elif self._clock() - self._unreported_since.setdefault(key, self._clock()) >= ALIAS_TTL_SECONDS:
                del self._unreported_since[key]
                if newest is None:
                    del self._current[key]
                else:
                    self._current[key] = newest

    def _reported(self, key: _Key) -> list[Alias]:
        model, name = key
        return [
            report.aliases[name]
            for report in self._reports.values()
            if report.model == model and name in report.aliases
        ]


def _keys(report: _AliasReport | None) -> set[_Key]:
    return set() if report is None else {(report.model, name) for name in report.aliases}
