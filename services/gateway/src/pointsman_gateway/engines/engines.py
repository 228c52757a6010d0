"""All engines of one configuration: finds those that can answer along a path now, or the error if none can."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.engine_config import BreakerConfig, EngineConfig, Timeouts
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import DEFAULT_FIELDS, RequestFields, request_fields
from pointsman_gateway.domain import Alias, Caller, Path, Sampling
from pointsman_gateway.engines.engine_client import DEFAULT_TIMEOUTS, NOT_RESIDENT, OVERLOADED, NotResident
from pointsman_gateway.engines.engine_state import Aliases, Engine, EngineState

MAX_CACHED_LOOKUPS = 1024
"""Pairs of model and adapter."""
DEFAULT_RETRY_AFTER_SECONDS = 5.0
"""If nothing says when an engine will be available."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The timeouts, breaker and accepted fields that one configuration has for one engine."""

    timeouts: Timeouts = DEFAULT_TIMEOUTS
    breaker: BreakerConfig = BreakerConfig()  # noqa: RUF009  # it is frozen
    accepted_fields: RequestFields = request_fields(DEFAULT_FIELDS)  # noqa: RUF009  # it is frozen
    sends_priority: bool = False
    separates_tenants: bool = False
    sends_caller: bool = False
    """Whether requests have a field that depends on the caller; if not, `with_caller` need not be called."""

    def with_caller(self, sampling: Sampling, caller: Caller) -> Sampling:
        """Adds the caller's priority, and a cache salt by tenant, to the parameters (vLLM's names), as configured."""
        fields: dict[str, object] = {}
        if self.sends_priority and caller.priority:
            fields["priority"] = -caller.priority  # vLLM answers the lowest number first
        if self.separates_tenants and caller.tenant:
            fields["cache_salt"] = hashlib.blake2b(caller.tenant.encode(), digest_size=16).hexdigest()
        return replace(sampling, extra={**sampling.extra, **fields}) if fields else sampling


DEFAULT_SETTINGS = EngineSettings()


def engine_settings(models: ModelsFile) -> dict[str, EngineSettings]:
    """Returns the settings of each engine or group, by its name in models.yaml."""
    return {name: _settings(models, name, engine) for name, engine in models.engines.items()}


def _settings(models: ModelsFile, name: str, engine: EngineConfig) -> EngineSettings:
    return EngineSettings(
        models.timeouts_of(name),
        models.breaker_of(name),
        engine.accepted_fields,
        engine.priority_scheduling,
        engine.prefix_cache_per_tenant,
        engine.priority_scheduling or engine.prefix_cache_per_tenant,
    )


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that can answer along a path, with the model name to send."""

    engine: Engine
    model: str
    """The base model or an adapter version."""
    state: EngineState
    settings: EngineSettings
    upstream_model: str = ""
    """The name that requests to the engine have for it."""

    @property
    def is_adapter(self) -> bool:
        return self.model != self.engine.model


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The engines for one model and adapter version, valid for one version of all engines' states."""

    version: int
    """`EngineState.version` at the lookup."""
    serving: tuple[Target, ...]
    loadable: tuple[Target, ...]
    """Engines that could load the adapter version."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    code: str
    retry_after: float = DEFAULT_RETRY_AFTER_SECONDS


class Engines:
    """The engines of one configuration; the lookup of those for a model and adapter is cached and nearly free."""

    def __init__(
        self,
        engines: Sequence[Engine | EngineState],
        settings: Mapping[str, EngineSettings] | None = None,
        aliases: Aliases | None = None,
    ) -> None:
        """Takes engines, their settings (defaults for those without), and the shared table of aliases."""
        self._settings = dict(settings or {})
        self._lookups: dict[tuple[str, str], _Lookup] = {}
        states = [EngineState(engine) if isinstance(engine, Engine) else engine for engine in engines]
        self.set_states(states)
        self._aliases = Aliases() if aliases is None else aliases
        if aliases is None:
            for state in states:
                self._aliases.update(state.engine.name, state.engine.model, state.engine.aliases)

    def set_states(self, states: Sequence[EngineState]) -> None:
        """Replaces the engines, because the members of a group have changed."""
        self._states = tuple(states)
        self._by_name = {state.engine.name: state for state in states}
        self._lookups.clear()

    @property
    def states(self) -> Sequence[EngineState]:
        return self._states

    def state(self, name: str) -> EngineState:
        return self._by_name[name]

    def update(self, engine: Engine) -> None:
        """Replaces the stored state of the engine with this name; raises KeyError if there is none."""
        self._aliases.update(engine.name, engine.model, engine.aliases)
        state = self._by_name[engine.name]
        if state.engine != engine:  # an update that changes nothing would invalidate the cached lookups
            state.update(engine)

    def get(self, name: str) -> Engine:
        return self._by_name[name].engine

    def all(self) -> list[Engine]:
        return [state.engine for state in self._states]

    @property
    def any_ready(self) -> bool:
        """Returns whether an engine is ready, and its breaker is closed or half open."""
        return any(state.engine.ready and not state.breaker.open for state in self._states)

    def alias_of(self, path: Path) -> Alias | None:
        """Returns the alias of the path's adapter; None if it is no known alias."""
        return self._aliases.get(path.model, path.adapter)

    def version_of(self, path: Path) -> str:
        """Returns the path's adapter version: the resolved one, else the alias's current one, "" without an adapter."""
        if not path.adapter:
            return ""
        if path.resolved_adapter is not None:
            return path.resolved_adapter.version
        alias = self._aliases.get(path.model, path.adapter)
        return path.adapter if alias is None else alias.version

    def versions_of(self, path: Path) -> Sequence[str]:
        """Returns the versions that the path may use now: its alias's and the canary's; none without an adapter."""
        alias = self.alias_of(path)
        if alias is None:
            return (path.adapter,) if path.adapter else ()
        return (alias.version, alias.canary_version) if alias.canary_version else (alias.version,)

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Returns the facts in the version's manifest, from a lora-server of the model.

        Raises the lora-server's PointsmanError, or Unavailable if none is known.
        """
        servers = [state.lora_server for state in self._states if state.engine.model == model and state.lora_server]
        if not servers:
            raise Unavailable(f"no lora-server of '{model}' is known", code="lora_server_unavailable")
        return await servers[0].facts(version)

    def model_of(self, adapter: str) -> str:
        """Returns the base model of an alias or a version; empty if it is unknown."""
        for state in self._states:
            engine = state.engine
            if engine.knows(adapter) or self._aliases.get(engine.model, adapter):
                return engine.model
        return ""

    def adapters(self) -> Sequence[str]:
        """Returns the names of all adapters that a request may name: aliases, then versions."""
        models = dict.fromkeys(state.engine.model for state in self._states)
        aliases = {alias.alias for model in models for alias in self._aliases.of(model)}
        versions = {version for engine in self.all() for version in engine.resident | engine.loadable}
        return [*sorted(aliases), *sorted(versions - aliases)]

    def trained(self) -> Sequence[tuple[str, str]]:
        """Returns base model and version of each adapter whose training time is known."""
        return [(engine.model, version) for engine in self.all() for version in engine.training_seconds]

    def training_seconds(self, model: str, version: str) -> float:
        """Returns how long a version was trained, in seconds; 0 if it is unknown."""
        for state in self._states:
            engine = state.engine
            if engine.model == model and version in engine.training_seconds:
                return engine.training_seconds[version]
        return 0.0

    def holds(self, model: str, version: str) -> bool:
        """Returns whether an available engine holds the version."""
        return any(target.state.is_available for target in self._look_up(model, version).serving)

    def may_load(self, model: str, version: str) -> bool:
        """Returns whether an engine could load the version now."""
        return any(target.state.may_load(version) for target in self._look_up(model, version).loadable)

    def why_not(self, path: Path) -> str | None:
        """Returns why the path cannot be used now; None if it can, also after loading its adapter."""
        version = self.version_of(path) if path.adapter else ""
        lookup = self._look_up(path.model, version)
        for target in lookup.serving:
            if target.state.is_available:
                return None
        if lookup.loadable and self.may_load(path.model, version):
            return None
        return self._refusal(path, lookup).reason

    def targets(self, path: Path) -> list[Target]:
        """Returns the engines that may answer along `path` now, at least one; raises Unavailable."""
        lookup = self._look_up(path.model, self.version_of(path) if path.adapter else "")
        found = [target for target in lookup.serving if target.state.is_available]
        if not found:
            raise self._unavailable(path, lookup)
        return found

    def count(self, model: str) -> int:
        """Returns the number of the base model's engines, also of those that cannot answer now."""
        return sum(state.engine.model == model for state in self._states)

    def loading_targets(self, path: Path) -> list[Target]:
        """Returns the engines that could load the path's adapter now."""
        version = self.version_of(path)
        return [target for target in self._look_up(path.model, version).loadable if target.state.may_load(version)]

    def _look_up(self, model: str, version: str) -> _Lookup:
        lookup = self._lookups.get((model, version))
        if lookup is not None and lookup.version == EngineState.version:
            return lookup
        ready = [state for state in self._states if state.engine.serves(model, "")]
        serving = [self._target(state, version or model) for state in ready if state.engine.serves(model, version)]
        loadable = [self._target(state, version) for state in ready if version in state.engine.loadable]
        if len(self._lookups) >= MAX_CACHED_LOOKUPS:
            self._lookups.clear()
        lookup = self._lookups[model, version] = _Lookup(EngineState.version, tuple(serving), tuple(loadable))
        return lookup

    def _target(self, state: EngineState, model: str) -> Target:
        engine = state.engine
        upstream = engine.upstream_model
        if model != engine.model:
            upstream = engine.api.name_of_adapter(model, upstream)
        settings = self._settings.get(engine.group or engine.name, DEFAULT_SETTINGS)
        return Target(engine, model, state, settings, upstream)

    def _unavailable(self, path: Path, lookup: _Lookup) -> Unavailable:
        refusal = self._refusal(path, lookup)
        family = NotResident if refusal.code == NOT_RESIDENT else Unavailable
        return family(f"path '{path.name}': {refusal.reason}", code=refusal.code, retry_after=refusal.retry_after)

    def _refusal(self, path: Path, lookup: _Lookup) -> _Refusal:
        of_model = [state for state in self._states if state.engine.model == path.model]
        if not any(state.engine.ready for state in of_model):
            details = "; ".join(f"{state.engine.name}: {state.engine.detail}" for state in of_model)
            return _Refusal(f"no engine for '{path.model}' is ready: {details}", "engine_not_ready")
        if not lookup.serving:
            return _not_resident(path, lookup, [state.engine for state in of_model])
        states = [target.state for target in lookup.serving]
        waits = [max(state.breaker.cooldown_left, state.cooldown_left) for state in states if not state.is_retired]
        reasons = "; ".join(f"{state.engine.name} {_why_unavailable(state)}" for state in states)
        code = OVERLOADED if all(state.breaker.closed for state in states) else "breaker_open"
        return _Refusal(reasons, code, max(1.0, min(waits, default=DEFAULT_RETRY_AFTER_SECONDS)))


def _not_resident(path: Path, lookup: _Lookup, engines: Sequence[Engine]) -> _Refusal:
    reason = f"adapter '{path.adapter}' is not resident on any engine"
    unusable = [f"{engine.name}: {why}" for engine in engines if (why := engine.unusable.get(path.adapter))]
    if unusable:
        return _Refusal(f"{reason} ({'; '.join(unusable)})", NOT_RESIDENT)
    waits = [
        (server.cooldown_left(target.model), target.engine.name)
        for target in lookup.loadable
        if (server := target.state.lora_server) is not None and server.cooldown_left(target.model)
    ]
    if not waits:
        return _Refusal(reason, NOT_RESIDENT)
    names = ", ".join(name for _, name in waits)
    return _Refusal(f"{reason}, and could just now not be loaded on {names}", NOT_RESIDENT, max(1.0, min(waits)[0]))


def _why_unavailable(state: EngineState) -> str:
    if state.is_retired:
        return "has left its group"
    if state.breaker.cooldown_left:
        return f"has failed and is tried again in {state.breaker.cooldown_left:.0f} s"
    if not state.breaker.closed:
        return "has failed and is being tried again"
    return f"is overloaded and asks for {state.cooldown_left:.0f} s"
