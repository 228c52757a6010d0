"""What is true of the engines now: where they are, whether they are up, which adapters they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.schema import BreakerConfig, ModelsFile, Timeouts
from pointsman_gateway.domain import Alias, Path
from pointsman_gateway.engines.engine_client import DEFAULT_TIMEOUTS, NOT_RESIDENT, OVERLOADED, NotResident
from pointsman_gateway.engines.engine_state import Aliases, Cell, Engine

__all__ = ["Cell", "Engine", "Engines", "Plan", "Target", "plans"]

MOST_KNOWN = 1024
"""Pairs of model and adapter whose engines are kept in mind."""
SOME_TIME = 5.0
"""Seconds, where nobody knows how long it takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one engine is treated, by one generation of the configuration."""

    timeouts: Timeouts = DEFAULT_TIMEOUTS
    breaker: BreakerConfig = BreakerConfig()  # noqa: RUF009  # it is frozen


def plans(models: ModelsFile) -> dict[str, Plan]:
    """By the name in models.yaml: an engine's, or a group's."""
    return {name: Plan(models.timeouts_of(name), models.breaker_of(name)) for name in models.engines}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a path's request goes."""

    engine: Engine
    model: str
    """As the engine knows it: the base model, or the adapter's version."""
    cell: Cell
    plan: Plan

    @property
    def of_adapter(self) -> bool:
        return self.model != self.engine.model


@dataclass(frozen=True, slots=True)
class _Known:
    """Who can answer, as long as nothing else is heard of the engines."""

    words: int
    """`Cell.words`, when this was found out."""
    able: tuple[Target, ...]
    offering: tuple[Target, ...]
    """Those that could load what is wanted."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why nobody can be asked now."""

    why: str
    code: str
    wait: float = SOME_TIME
    """Seconds after which it may be otherwise."""


class Engines:
    """The latest word on each engine of one generation; reading it costs next to nothing."""

    def __init__(
        self,
        engines: Sequence[Engine | Cell],
        plans: Mapping[str, Plan] | None = None,
        aliases: Aliases | None = None,
    ) -> None:
        """An engine without a plan is treated by the defaults; `aliases` is shared with those who hear of them."""
        self._plans = dict(plans or {})
        self._known: dict[tuple[str, str], _Known] = {}
        cells = [Cell(engine) if isinstance(engine, Engine) else engine for engine in engines]
        self.seat(cells)
        self._aliases = Aliases() if aliases is None else aliases
        if aliases is None:
            for cell in cells:
                self._aliases.hear(cell.engine.name, cell.engine.model, cell.engine.aliases)

    def seat(self, cells: Sequence[Cell]) -> None:
        """From now on these are all: a group has other members."""
        self._cells = tuple(cells)
        self._by_name = {cell.engine.name: cell for cell in cells}
        self._known.clear()

    @property
    def cells(self) -> Sequence[Cell]:
        return self._cells

    def cell(self, name: str) -> Cell:
        return self._by_name[name]

    def put(self, engine: Engine) -> None:
        """Takes the latest word on it."""
        self._aliases.hear(engine.name, engine.model, engine.aliases)
        cell = self._by_name[engine.name]
        if cell.engine != engine:  # else all that is kept in mind would be looked up again for nothing
            cell.hear(engine)

    def get(self, name: str) -> Engine:
        return self._by_name[name].engine

    def all(self) -> list[Engine]:
        return [cell.engine for cell in self._cells]

    @property
    def any_ready(self) -> bool:
        """Whether some engine is up and not at rest; one that is to be tried again counts."""
        return any(cell.engine.ready and not cell.breaker.open for cell in self._cells)

    def alias_of(self, path: Path) -> Alias | None:
        """Where the path's adapter points; None where that is no alias that anybody tells of."""
        return self._aliases.get(path.model, path.adapter)

    def version_of(self, path: Path) -> str:
        """The adapter's version that `path` means: its aim, else where its alias points now; empty without adapter."""
        if not path.adapter:
            return ""
        if path.resolved_adapter is not None:
            return path.resolved_adapter.version
        alias = self._aliases.get(path.model, path.adapter)
        return path.adapter if alias is None else alias.version

    def versions_of(self, path: Path) -> Sequence[str]:
        """All that `path` may mean now: where its adapter's alias points, and its canary; none without an adapter."""
        alias = self.alias_of(path)
        if alias is None:
            return (path.adapter,) if path.adapter else ()
        return (alias.version, alias.canary_version) if alias.canary_version else (alias.version,)

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Of the version's manifest, by a lora-server of the model. Raises PointsmanError."""
        servers = [cell.lora_server for cell in self._cells if cell.engine.model == model and cell.lora_server]
        if not servers:
            raise Unavailable(f"no lora-server of '{model}' is known", code="lora_server_unavailable")
        return await servers[0].facts(version)

    def model_of(self, adapter: str) -> str:
        """The base model of an alias or a version; empty where nobody knows it."""
        for cell in self._cells:
            engine = cell.engine
            if engine.knows(adapter) or self._aliases.get(engine.model, adapter):
                return engine.model
        return ""

    def adapters(self) -> Sequence[str]:
        """All names by which adapters can be asked for: aliases, then versions."""
        models = dict.fromkeys(cell.engine.model for cell in self._cells)
        aliases = {alias.alias for model in models for alias in self._aliases.of(model)}
        versions = {version for engine in self.all() for version in engine.resident | engine.loadable}
        return [*sorted(aliases), *sorted(versions - aliases)]

    def trained(self) -> Sequence[tuple[str, str]]:
        """Base model and version of all adapters of which it is known how long their training took."""
        return [(engine.model, version) for engine in self.all() for version in engine.training_seconds]

    def training_seconds(self, model: str, version: str) -> float:
        """0 where nobody knows."""
        for cell in self._cells:
            engine = cell.engine
            if engine.model == model and version in engine.training_seconds:
                return engine.training_seconds[version]
        return 0.0

    def holds(self, model: str, version: str) -> bool:
        """Whether an engine that may be asked now holds the version."""
        return any(target.cell.may_be_asked for target in self._look_up(model, version).able)

    def may_load(self, model: str, version: str) -> bool:
        """Whether an engine could load the version now."""
        return any(target.cell.may_load(version) for target in self._look_up(model, version).offering)

    def why_not(self, path: Path) -> str | None:
        """Implements the router's `Availability`: None also where the path's adapter would have to be loaded first."""
        version = self.version_of(path)
        known = self._look_up(path.model, version)
        for target in known.able:
            if target.cell.may_be_asked:
                return None
        if known.offering and self.may_load(path.model, version):
            return None
        return self._refusal(path, known).why

    def targets(self, path: Path) -> list[Target]:
        """All engines that may be asked along `path` now. Raises Unavailable where there is none."""
        known = self._look_up(path.model, self.version_of(path))
        found = [target for target in known.able if target.cell.may_be_asked]
        if not found:
            raise self.refusal(path)
        return found

    def offers(self, path: Path) -> list[Target]:
        """All engines that could load the path's adapter now."""
        version = self.version_of(path)
        return [target for target in self._look_up(path.model, version).offering if target.cell.may_load(version)]

    def refusal(self, path: Path) -> Unavailable:
        """Why nobody can be asked along `path`."""
        said = self._refusal(path, self._look_up(path.model, self.version_of(path)))
        family = NotResident if said.code == NOT_RESIDENT else Unavailable
        return family(f"path '{path.name}': {said.why}", code=said.code, retry_after=said.wait)

    def _look_up(self, model: str, version: str) -> _Known:
        """All that are up, serve the model and hold the adapter's version, and all that could load it."""
        known = self._known.get((model, version))
        return known if known is not None and known.words == Cell.words else self._look(model, version)

    def _look(self, model: str, version: str) -> _Known:
        up = [cell for cell in self._cells if cell.engine.serves(model, "")]
        able = [self._target(cell, version or model) for cell in up if cell.engine.serves(model, version)]
        offering = [self._target(cell, version) for cell in up if version in cell.engine.loadable]
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        known = self._known[model, version] = _Known(Cell.words, tuple(able), tuple(offering))
        return known

    def _target(self, cell: Cell, model: str) -> Target:
        engine = cell.engine
        return Target(engine, model, cell, self._plans.get(engine.group or engine.name, Plan()))

    def _refusal(self, path: Path, known: _Known) -> _Refusal:
        serving = [cell for cell in self._cells if cell.engine.model == path.model]
        if not any(cell.engine.ready for cell in serving):
            told = "; ".join(f"{cell.engine.name}: {cell.engine.detail}" for cell in serving)
            return _Refusal(f"no engine for '{path.model}' is ready: {told}", "engine_not_ready")
        if not known.able:
            return self._not_resident(path, known)
        able = [target.cell for target in known.able]
        waits = [max(cell.breaker.rest_left, cell.rest_left) for cell in able if not cell.has_left]
        told = "; ".join(f"{cell.engine.name} {_why_not_now(cell)}" for cell in able)
        overloaded = all(cell.breaker.closed for cell in able)
        return _Refusal(told, OVERLOADED if overloaded else "breaker_open", max(1.0, min(waits, default=SOME_TIME)))

    def _not_resident(self, path: Path, known: _Known) -> _Refusal:
        why = f"adapter '{path.adapter}' is not resident on any engine"
        waits = [
            (server.rest_left(target.model), target.engine.name)
            for target in known.offering
            if (server := target.cell.lora_server) is not None and server.rest_left(target.model)
        ]
        if not waits:
            return _Refusal(why, NOT_RESIDENT)
        names = ", ".join(name for _, name in waits)
        return _Refusal(f"{why}, and could just now not be loaded on {names}", NOT_RESIDENT, max(1.0, min(waits)[0]))


def _why_not_now(cell: Cell) -> str:
    if cell.has_left:
        return "has left its group"
    if cell.breaker.rest_left:
        return f"has failed and is tried again in {cell.breaker.rest_left:.0f} s"
    if not cell.breaker.closed:
        return "has failed and is being tried again"
    return f"is overloaded and asks for {cell.rest_left:.0f} s"
