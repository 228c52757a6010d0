"""What is true of the engines now: where they are, whether they are up, which adapters they hold."""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.backends.call import DEFAULT_TIMEOUTS
from pointsman_gateway.backends.failures import OVERLOADED
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.schema import BreakerTerms, ModelsFile, Timeouts
from pointsman_gateway.domain import Path

log = logging.getLogger(__name__)

SILENCE = 25.0
"""Seconds without a word from a lora-server (it promises one every 10) until its stream is opened anew."""

NO_WORD = "no word from its lora-server yet"

MOST_KNOWN = 1024
"""Pairs of model and adapter whose engines are kept in mind."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is known of one engine."""

    name: str
    model: str
    url: str = ""
    ready: bool = False
    resident: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    detail: str = NO_WORD
    api_key: str = ""

    @property
    def heard_of(self) -> bool:
        return self.ready or self.detail != NO_WORD

    def adapter_version(self, adapter: str) -> str | None:
        """The resident version behind an alias or a version's own name."""
        version = self.aliases.get(adapter, adapter)
        return version if version in self.resident else None

    def served_as(self, path: Path) -> str | None:
        """What it knows the path's model or adapter by; None where it cannot answer."""
        if not self.ready or self.model != path.model:
            return None
        return self.adapter_version(path.adapter) if path.adapter else self.model


class Cell:
    """The latest word on one engine, and how it does; generations of the configuration that name it share its cell."""

    __slots__ = ("_rests_until", "breaker", "clock", "engine", "in_flight", "seed")

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self.clock = clock
        self.breaker = Breaker(clock)
        self.in_flight = 0
        """Answers that it is busy with, of this gateway."""
        self.seed = zlib.crc32(engine.name.encode())
        """By which prompts are spread over engines."""
        self._rests_until = 0.0

    def rest(self, seconds: float) -> None:
        """It has asked to be left alone for so long."""
        self._rests_until = self.clock() + seconds

    @property
    def rest_left(self) -> float:
        """Seconds that it has asked for still."""
        return max(0.0, self._rests_until - self.clock()) if self._rests_until else 0.0

    @property
    def may_be_asked(self) -> bool:
        if self.breaker.closed and not self._rests_until:
            return True
        return self.breaker.may_enter() and not self.rest_left


@dataclass(frozen=True, slots=True)
class Plan:
    """How one engine is treated, by one generation of the configuration."""

    timeouts: Timeouts = DEFAULT_TIMEOUTS
    breaker: BreakerTerms = BreakerTerms()  # noqa: RUF009  # it is frozen


def plans(models: ModelsFile) -> dict[str, Plan]:
    """By engine."""
    return {name: Plan(models.timeouts_of(name), models.breaker_of(name)) for name in models.engines}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a path's request goes."""

    engine: Engine
    model: str
    cell: Cell
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Known:
    """Who can answer, as long as nothing else is heard of the engines."""

    engines: tuple[Engine, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why nobody can be asked now."""

    why: str
    code: str
    wait: float = 5.0
    """Seconds after which it may be otherwise."""


class Engines:
    """The latest word on each engine of one generation; reading it costs next to nothing."""

    def __init__(self, engines: Sequence[Engine | Cell], plans: Mapping[str, Plan] | None = None) -> None:
        """An engine without a plan is treated by the defaults."""
        self._cells = tuple(Cell(engine) if isinstance(engine, Engine) else engine for engine in engines)
        self._by_name = {cell.engine.name: cell for cell in self._cells}
        self._plans = dict(plans or {})
        self._known: dict[tuple[str, str], _Known] = {}

    @property
    def cells(self) -> Sequence[Cell]:
        return self._cells

    def put(self, engine: Engine) -> None:
        self._by_name[engine.name].engine = engine

    def get(self, name: str) -> Engine:
        return self._by_name[name].engine

    def all(self) -> list[Engine]:
        return [cell.engine for cell in self._cells]

    @property
    def any_ready(self) -> bool:
        """Whether some engine is up and not at rest; one that is to be tried again counts."""
        return any(cell.engine.ready and not cell.breaker.open for cell in self._cells)

    def version_of(self, path: Path) -> str:
        """The adapter's version that would answer along `path` now; empty where it has none, or none is there."""
        if not path.adapter:
            return ""
        versions = (engine.adapter_version(path.adapter) for engine in self.all() if engine.model == path.model)
        return next((version for version in versions if version), "")

    def why_not(self, path: Path) -> str | None:
        """Implements the router's `Availability`."""
        for target in self._able(path):
            if target.cell.may_be_asked:
                return None
        return self._refusal(path).why

    def targets(self, path: Path) -> list[Target]:
        """All engines that may be asked along `path` now. Raises Unavailable where there is none."""
        found = [target for target in self._able(path) if target.cell.may_be_asked]
        if not found:
            said = self._refusal(path)
            raise Unavailable(f"path '{path.name}': {said.why}", code=said.code, retry_after=said.wait)
        return found

    def _able(self, path: Path) -> tuple[Target, ...]:
        """All that are up, serve the model and hold the adapter."""
        known = self._known.get((path.model, path.adapter))
        if known is not None:
            for cell, engine in zip(self._cells, known.engines, strict=True):
                if cell.engine is not engine:
                    break
            else:
                return known.targets
        return self._look(path)

    def _look(self, path: Path) -> tuple[Target, ...]:
        found = []
        for cell in self._cells:
            model = cell.engine.served_as(path)
            if model:
                found.append(Target(cell.engine, model, cell, self._plans.get(cell.engine.name, Plan())))
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[path.model, path.adapter] = _Known(tuple(self.all()), tuple(found))
        return tuple(found)

    def _refusal(self, path: Path) -> _Refusal:
        """Why nobody may be asked along `path`."""
        serving = [cell for cell in self._cells if cell.engine.model == path.model]
        if not any(cell.engine.ready for cell in serving):
            told = "; ".join(f"{cell.engine.name}: {cell.engine.detail}" for cell in serving)
            return _Refusal(f"no engine for '{path.model}' is ready: {told}", "engine_not_ready")
        able = [target.cell for target in self._able(path)]
        if not able:
            return _Refusal(f"adapter '{path.adapter}' is not resident on any engine", "adapter_not_resident")
        wait = max(1.0, min(max(cell.breaker.rest_left, cell.rest_left) for cell in able))
        told = "; ".join(f"{cell.engine.name} {_why_not_now(cell)}" for cell in able)
        overloaded = all(cell.breaker.closed for cell in able)
        return _Refusal(told, OVERLOADED if overloaded else "breaker_open", wait)


def _why_not_now(cell: Cell) -> str:
    if cell.breaker.rest_left:
        return f"has failed and is tried again in {cell.breaker.rest_left:.0f} s"
    if not cell.breaker.closed:
        return "has failed and is being tried again"
    return f"is overloaded and asks for {cell.rest_left:.0f} s"


async def follow(engines: Engines, name: str, address: str, tls: ClientTls | None = None) -> None:
    """Keeps `engines` true to what the lora-server at `address` says of engine `name`, until cancelled."""
    async with open_channel(address, tls) as channel:
        stub = lora_server_pb2_grpc.LoraServerStub(channel)
        told = ""
        while True:
            try:
                await _read_states(engines, name, stub)
                why = "its lora-server ended the stream"
            except grpc.aio.AioRpcError as error:
                why = f"its lora-server cannot be reached ({error.code().name})"
            except TimeoutError:
                why = "its lora-server fell silent"
            # The engine goes on with what is resident: only its stream of news is gone.
            if why != told:
                log.warning("engine %s: %s", name, why)
                told = why
            await asyncio.sleep(0.5)


async def _read_states(engines: Engines, name: str, stub: lora_server_pb2_grpc.LoraServerStub) -> None:
    stream = stub.Watch(lora_server_pb2.WatchRequest())
    try:
        while True:
            async with asyncio.timeout(SILENCE):
                state = await stream.read()
            if state is grpc.aio.EOF:
                return
            engines.put(_engine(engines.get(name), state))
    finally:
        stream.cancel()


def _engine(before: Engine, state: lora_server_pb2.EngineState) -> Engine:
    ready = state.status == lora_server_pb2.ENGINE_STATUS_READY
    if ready and state.base_model != before.model:
        ready, detail = False, f"it serves '{state.base_model}', not '{before.model}' as models.yaml says"
    else:
        detail = state.detail
    return Engine(
        name=before.name,
        model=before.model,
        url=state.url.rstrip("/"),
        ready=ready,
        resident=frozenset(state.resident),
        aliases={alias.alias: alias.version for alias in state.aliases},
        detail=detail,
        api_key=before.api_key,
    )
