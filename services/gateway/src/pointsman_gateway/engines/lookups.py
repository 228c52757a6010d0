"""A cache of which engines of one base model have loaded an adapter version, kept up to date by engines' reports."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pointsman_gateway.engines.catalog import EMPTY, AdapterCatalog
from pointsman_gateway.engines.engine_settings import DEFAULT_SETTINGS, EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState

MAX_LOOKUPS = 16_384
"""Number of versions of a model whose engines are cached; beyond it, the least recently used version is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """An engine to which a request can be sent, and the base model or adapter version to use there."""

    model: str
    """The name of the base model or the adapter version, as in the gateway's configuration."""
    state: EngineState
    settings: EngineSettings
    upstream_model: str = ""
    """The engine's own name for `model`, which requests to the engine contain."""

    @property
    def engine(self) -> Engine:
        """Returns the engine's configuration and its last reported state."""
        return self.state.engine

    @property
    def is_adapter(self) -> bool:
        return self.model != self.state.engine.model


class ModelLookups:
    """The engines of one base model in one configuration, with a cache of which of them serve each adapter version."""

    def __init__(self, model: str, settings: Mapping[str, EngineSettings], max_lookups: int = MAX_LOOKUPS) -> None:
        """Takes the base model's name, and the settings by the name of an engine or group; engines without settings get
        `DEFAULT_SETTINGS`. `max_lookups` is the maximum number of versions in the cache.
        """
        self._model = model
        self._max = max_lookups
        self._settings = settings
        self._states: dict[str, EngineState] = {}
        """By the engine's name, its state."""
        self._serving: OrderedDict[str, tuple[Target, ...]] = OrderedDict()
        """By version, the engines that hold it; "" stands for the base model."""
        self._catalogs: Counter[AdapterCatalog] = Counter()
        """The number of engines that have each catalog."""

    def __len__(self) -> int:
        """Returns the number of versions whose engines are cached."""
        return len(self._serving)

    @property
    def states(self) -> Collection[EngineState]:
        return self._states.values()

    @property
    def catalogs(self) -> Collection[AdapterCatalog]:
        return self._catalogs.keys()

    def serving(self, version: str) -> tuple[Target, ...]:
        """Returns the ready engines that have loaded the adapter version `version`.

        For "", which stands for the base model without an adapter, returns all ready engines.
        """
        found = self._serving.get(version)
        if found is None:
            return self._look_up(version)
        self._serving.move_to_end(version)
        return found

    def loading(self, version: str) -> Iterator[Target]:
        """Yields the ready engines that have not loaded the adapter version, but whose lora-server can load it."""
        if not any(version in catalog.versions for catalog in self._catalogs):
            return
        for state in self._states.values():
            if state.engine.ready and state.engine.can_load(version):
                yield self._target(state, version)

    def knows(self, version: str) -> bool:
        """Returns whether any engine, ready or not, has loaded the adapter version or can load it."""
        if any(version in catalog.versions for catalog in self._catalogs):
            return True
        return EMPTY in self._catalogs and any(version in state.engine.resident for state in self._states.values())

    def versions(self) -> set[str]:
        """Returns the adapter versions that any engine, ready or not, has loaded or can load."""
        found = set[str]().union(*(catalog.versions for catalog in self._catalogs))
        if EMPTY in self._catalogs:
            unlisted = (state.engine.resident for state in self._states.values() if state.engine.catalog is EMPTY)
            found.update(*unlisted)
        return found

    def add(self, state: EngineState) -> None:
        self._states[state.engine.name] = state
        self._catalogs[state.engine.catalog] += 1
        self._refresh(state, self._held(state.engine))

    def remove(self, state: EngineState) -> None:
        del self._states[state.engine.name]
        self._drop(state.engine.catalog)
        self._refresh(state, self._held(state.engine))

    def on_report(self, state: EngineState, before: Engine) -> None:
        """Updates the cache after a report has replaced `state.engine`; `before` is its earlier value."""
        engine = state.engine
        if engine.catalog is not before.catalog:
            self._catalogs[engine.catalog] += 1
            self._drop(before.catalog)
        if engine.ready != before.ready:
            self._refresh(state, self._held(before) | self._held(engine))
        elif engine.resident is not before.resident:
            self._refresh(state, engine.resident ^ before.resident)

    def _drop(self, catalog: AdapterCatalog) -> None:
        self._catalogs[catalog] -= 1
        if not self._catalogs[catalog]:
            del self._catalogs[catalog]

    def _held(self, engine: Engine) -> frozenset[str]:
        return engine.resident | {""}

    def _refresh(self, state: EngineState, versions: Collection[str]) -> None:
        """Adds the engine to the cached engines of these versions, or removes it, depending on its state."""
        is_member = self._states.get(state.engine.name) is state
        for version in versions if len(versions) < len(self._serving) else [v for v in self._serving if v in versions]:
            found = self._serving.get(version)
            if found is None:
                continue
            others = tuple([target for target in found if target.state is not state])
            serves = is_member and state.engine.serves(self._model, version)
            self._serving[version] = (*others, self._target(state, version)) if serves else others

    def _look_up(self, version: str) -> tuple[Target, ...]:
        if version and not self.knows(version):
            return ()  # names that clients make up displace nothing
        model = self._model
        found = [state for state in self._states.values() if state.engine.serves(model, version)]
        if len(self._serving) >= self._max:
            self._serving.popitem(last=False)
        targets = self._serving[version] = tuple([self._target(state, version) for state in found])
        return targets

    def _target(self, state: EngineState, version: str) -> Target:
        engine = state.engine
        upstream = engine.upstream_model
        if version:
            upstream = engine.api.name_of_adapter(version, upstream)
        settings = self._settings.get(engine.group or engine.name, DEFAULT_SETTINGS)
        return Target(version or engine.model, state, settings, upstream)


def shared_settings(targets: Sequence[Target]) -> Sequence[EngineSettings]:
    """Returns the different settings of those engines in `targets` that are available now, without repetitions."""
    return list({id(target.settings): target.settings for target in targets if target.state.is_available}.values())
