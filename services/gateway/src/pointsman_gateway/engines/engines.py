"""All engines of one configuration: finds those that can answer a request now, or raises an error if none can."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.domain import Alias, Path
from pointsman_gateway.engines.aliases import Aliases
from pointsman_gateway.engines.catalog import AdapterCatalog
from pointsman_gateway.engines.engine_client import NOT_RESIDENT, OVERLOADED, NotResident
from pointsman_gateway.engines.engine_settings import EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.lookups import ModelLookups, Target

DEFAULT_RETRY_AFTER_SECONDS = 5.0
"""Seconds after which a client may retry if it is not known when an engine will be available."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    code: str
    retry_after: float = DEFAULT_RETRY_AFTER_SECONDS


class Engines:
    """The engines of one configuration, such as vLLM servers and providers' APIs.

    Caches which engines serve each base model and adapter (`ModelLookups`), and updates the cache after each engine's
    report.
    """

    def __init__(
        self,
        engines: Sequence[Engine | EngineState],
        settings: Mapping[str, EngineSettings] | None = None,
        aliases: Aliases | None = None,
    ) -> None:
        """Takes engines, and settings by the name of an engine or group; engines without settings get
        `DEFAULT_SETTINGS`. An `Engine` gets a new `EngineState`. `aliases` is the table that all configurations share;
        without it, a table is made from the engines' catalogs.
        """
        self._settings = dict(settings or {})
        self._models: dict[str, ModelLookups] = {}
        self._states: tuple[EngineState, ...] = ()
        self._by_name: dict[str, EngineState] = {}
        states = [EngineState(engine) if isinstance(engine, Engine) else engine for engine in engines]
        self.set_states(states)
        self._aliases = Aliases() if aliases is None else aliases
        if aliases is None:
            for state in states:
                self._aliases.update(state.engine.name, state.engine.model, state.engine.catalog)

    def set_states(self, states: Sequence[EngineState]) -> None:
        """Replaces all engines of this configuration by `states`, and observes the reports on the new ones. Called when
        engines have joined or left a group.
        """
        before, after = set(self._states), set(states)
        for state in before - after:
            state.observers.discard(self)
            self._models[state.engine.model].remove(state)
        for state in states:
            if state not in before:
                state.observers.add(self)
                self._lookups_of(state.engine.model).add(state)
        self._states = tuple(states)
        self._by_name = {state.engine.name: state for state in states}

    def _lookups_of(self, model: str) -> ModelLookups:
        if model not in self._models:
            self._models[model] = ModelLookups(model, self._settings)
        return self._models[model]

    def on_report(self, state: EngineState, before: Engine) -> None:
        """Updates the cached lookups after a report has replaced `state.engine`; `before` is its earlier value.

        Implements `EngineObserver`.
        """
        self._models[state.engine.model].on_report(state, before)

    @property
    def states(self) -> Sequence[EngineState]:
        return self._states

    def state(self, name: str) -> EngineState:
        return self._by_name[name]

    def update(self, engine: Engine) -> None:
        """Replaces the stored engine that has the name `engine.name` by `engine`, a new report, and updates the adapter
        aliases from `engine.catalog`.

        Raises KeyError if there is no engine with this name.
        """
        self._aliases.update(engine.name, engine.model, engine.catalog)
        state = self._by_name[engine.name]
        if state.engine != engine:
            state.update(engine)

    def shared_catalog(self, model: str, catalog: AdapterCatalog) -> AdapterCatalog:
        """Returns an equal catalog that an engine of the base model `model` has reported before, so that equal
        catalogs are stored once; returns `catalog` itself if none is found.
        """
        return self._aliases.shared(model, catalog)

    def latest_catalog(self, model: str) -> AdapterCatalog:
        """Returns the adapter catalog that most engines of the base model `model` have reported; an empty one if none
        has.
        """
        return self._aliases.latest(model)

    def get(self, name: str) -> Engine:
        return self._by_name[name].engine

    def all(self) -> list[Engine]:
        return [state.engine for state in self._states]

    @property
    def any_ready(self) -> bool:
        """Returns whether at least one engine is ready and has a circuit breaker that is closed or half open."""
        return any(state.engine.ready and not state.breaker.open for state in self._states)

    def alias_of(self, path: Path) -> Alias | None:
        """Returns the adapter alias that the path's `adapter` names.

        Returns None if the path has no adapter, or if `adapter` is an adapter version or an unknown name.
        """
        return self._aliases.get(path.model, path.adapter)

    def version_of(self, path: Path) -> str:
        """Returns the adapter version to use on the path; empty if the path has no adapter.

        If the adapter was resolved for this request (`path.resolved_adapter`), this is the resolved version. Otherwise
        it is the stable version of the alias `path.adapter`, or `path.adapter` itself if that is no alias.
        """
        if not path.adapter:
            return ""
        if path.resolved_adapter is not None:
            return path.resolved_adapter.version
        alias = self._aliases.get(path.model, path.adapter)
        return path.adapter if alias is None else alias.version

    def versions_of(self, path: Path) -> Sequence[str]:
        """Returns the adapter versions that requests on the path may use now; empty if the path has no adapter.

        If `path.adapter` is an alias, these are its stable version and, if there is one, its canary version; otherwise
        it is `path.adapter` itself.
        """
        alias = self.alias_of(path)
        if alias is None:
            return (path.adapter,) if path.adapter else ()
        return (alias.version, alias.canary_version) if alias.canary_version else (alias.version,)

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Returns the registry's notes on how an adapter version was made: texts by name, such as "train_rows".

        Reads them from a lora-server (the service that loads adapters) of an engine of the base model `model`. Raises
        Unavailable if the model has no engine with a lora-server now, and the errors of `LoraServer.facts`.
        """
        servers = [state.lora_server for state in self._states if state.engine.model == model and state.lora_server]
        if not servers:
            raise Unavailable(f"model '{model}' has no engine with a lora-server now", code="lora_server_unavailable")
        return await servers[0].facts(version)

    def model_of(self, adapter: str) -> str:
        """Returns the name of the base model with an adapter alias or version named `adapter`; empty if none has it."""
        for model, lookups in self._models.items():
            if lookups.states and (self._aliases.get(model, adapter) or lookups.knows(adapter)):
                return model
        return ""

    def adapters(self) -> Sequence[str]:
        """Returns the names of all adapters that a request may name: the aliases, then the versions, each sorted."""
        models = [model for model, lookups in self._models.items() if lookups.states]
        aliases = {alias.alias for model in models for alias in self._aliases.of(model)}
        versions = set[str]().union(*(lookups.versions() for lookups in self._models.values()))
        return [*sorted(aliases), *sorted(versions - aliases)]

    def trained(self) -> Sequence[tuple[str, str]]:
        """Returns a (base model, version) pair for each adapter version whose training time is known."""
        found = {
            (model, version): None
            for model, lookups in self._models.items()
            for catalog in lookups.catalogs
            for version in catalog.training_seconds
        }
        return list(found)

    def training_seconds(self, model: str, version: str) -> float:
        """Returns how long an adapter version of a base model was trained, in seconds; 0 if that is unknown."""
        for catalog in self._models[model].catalogs if model in self._models else ():
            if version in catalog.training_seconds:
                return catalog.training_seconds[version]
        return 0.0

    def holds(self, model: str, version: str) -> bool:
        """Returns whether an engine of the base model is ready and available and has loaded the adapter version.

        An engine is available unless its circuit breaker or a Retry-After blocks requests.
        """
        return any(target.state.is_available for target in self._serving(model, version))

    def may_load(self, model: str, version: str) -> bool:
        """Returns whether an engine of the base model is ready and available and can load the adapter version now.

        The engine must not have loaded the version yet, and its last attempt to load it must not just have failed.
        """
        return any(target.state.may_load(version) for target in self._loading(model, version))

    def why_not(self, path: Path) -> str | None:
        """Returns the reason why no engine can answer requests on the path now, as text for a message.

        Returns None if an engine can answer now, or can after loading the path's adapter.
        """
        version = self.version_of(path) if path.adapter else ""
        serving = self._serving(path.model, version)
        for target in serving:
            if target.state.is_available:
                return None
        if version and self.may_load(path.model, version):
            return None
        return self._refusal(path, version, serving).reason

    def targets(self, path: Path) -> Sequence[Target]:
        """Returns the ready engines that have loaded the path's adapter version, or that serve the path's base model
        if the path has no adapter. At least one of the returned engines is available now.

        Raises NotResident if ready engines of the model exist, but none has loaded the version. Raises Unavailable if
        no engine of the model is ready ("engine_not_ready"), or if the circuit breaker ("breaker_open") or a
        Retry-After ("engine_overloaded") of every such engine blocks requests.
        """
        version = self.version_of(path) if path.adapter else ""
        serving = self._serving(path.model, version)
        for target in serving:
            if target.state.is_available:
                return serving
        raise self._unavailable(path, version, serving)

    def count(self, model: str) -> int:
        """Returns the number of engines that are configured for the base model `model`, whether or not they can answer
        now.
        """
        return len(self._models[model].states) if model in self._models else 0

    def loading_targets(self, path: Path) -> list[Target]:
        """Returns the ready engines that have not loaded the path's adapter version and may load it now."""
        version = self.version_of(path)
        return [target for target in self._loading(path.model, version) if target.state.may_load(version)]

    def _serving(self, model: str, version: str) -> tuple[Target, ...]:
        lookups = self._models.get(model)
        return () if lookups is None else lookups.serving(version)

    def _loading(self, model: str, version: str) -> Iterator[Target]:
        lookups = self._models.get(model)
        return iter(()) if lookups is None else lookups.loading(version)

    def _unavailable(self, path: Path, version: str, serving: Sequence[Target]) -> Unavailable:
        refusal = self._refusal(path, version, serving)
        family = NotResident if refusal.code == NOT_RESIDENT else Unavailable
        return family(f"path '{path.name}': {refusal.reason}", code=refusal.code, retry_after=refusal.retry_after)

    def _refusal(self, path: Path, version: str, serving: Sequence[Target]) -> _Refusal:
        of_model = [state for state in self._states if state.engine.model == path.model]
        if not any(state.engine.ready for state in of_model):
            details = "; ".join(f"{state.engine.name}: {state.engine.detail}" for state in of_model)
            return _Refusal(f"no engine for '{path.model}' is ready: {details}", "engine_not_ready")
        if not serving:
            loading = self._loading(path.model, version)
            return _not_resident(path, loading, [state.engine for state in of_model])
        states = [target.state for target in serving]
        waits = [max(state.breaker.cooldown_left, state.cooldown_left) for state in states if not state.is_retired]
        reasons = "; ".join(f"{state.engine.name} {_why_unavailable(state)}" for state in states)
        code = OVERLOADED if all(state.breaker.closed for state in states) else "breaker_open"
        return _Refusal(reasons, code, max(1.0, min(waits, default=DEFAULT_RETRY_AFTER_SECONDS)))


def _not_resident(path: Path, loading: Iterable[Target], engines: Sequence[Engine]) -> _Refusal:
    reason = f"adapter '{path.adapter}' is not resident on any engine"
    unusable = [f"{engine.name}: {why}" for engine in engines if (why := engine.unusable.get(path.adapter))]
    if unusable:
        return _Refusal(f"{reason} ({'; '.join(unusable)})", NOT_RESIDENT)
    waits = [
        (server.cooldown_left(target.model), target.engine.name)
        for target in loading
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
