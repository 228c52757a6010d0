"""What is true of the engines now: where they are, whether they are up, which adapters they hold."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel

from pointsman_gateway.domain import Path

log = logging.getLogger(__name__)

SILENCE = 25.0
"""Seconds without a word from a lora-server (it promises one every 10) until its stream is opened anew."""


NO_WORD = "no word from its lora-server yet"


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


@dataclass(frozen=True, slots=True)
class Target:
    """Where a path's request goes."""

    engine: Engine
    model: str


class Cell:
    """The latest word on one engine; generations of the configuration that both name it share its cell."""

    __slots__ = ("engine",)

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


class Engines:
    """The latest word on each engine of one generation; reading it costs nothing."""

    def __init__(self, engines: Sequence[Engine | Cell]) -> None:
        cells = [Cell(engine) if isinstance(engine, Engine) else engine for engine in engines]
        self._cells = {cell.engine.name: cell for cell in cells}

    def put(self, engine: Engine) -> None:
        self._cells[engine.name].engine = engine

    def get(self, name: str) -> Engine:
        return self._cells[name].engine

    def all(self) -> list[Engine]:
        return [cell.engine for cell in self._cells.values()]

    @property
    def any_ready(self) -> bool:
        return any(engine.ready for engine in self.all())

    def version_of(self, path: Path) -> str:
        """The adapter's version that would answer along `path` now; empty where it has none, or none is there."""
        if not path.adapter:
            return ""
        versions = (engine.adapter_version(path.adapter) for engine in self.all() if engine.model == path.model)
        return next((version for version in versions if version), "")

    def why_not(self, path: Path) -> str | None:
        """Implements the router's `Availability`."""
        serving = [e for e in self.all() if e.model == path.model]
        if not any(e.ready for e in serving):
            return f"no engine for '{path.model}' is ready: " + "; ".join(f"{e.name}: {e.detail}" for e in serving)
        if path.adapter and not any(e.ready and e.adapter_version(path.adapter) for e in serving):
            return f"adapter '{path.adapter}' is not resident on any engine"
        return None

    def targets(self, path: Path) -> list[Target]:
        """All engines that can answer along `path` now. Raises Unavailable where there is none."""
        why_not = self.why_not(path)
        if why_not:
            code = "adapter_not_resident" if path.adapter and "not resident" in why_not else "engine_not_ready"
            raise Unavailable(f"path '{path.name}': {why_not}", code=code, retry_after=5.0)
        found = []
        for engine in self.all():
            if engine.ready and engine.model == path.model:
                model = engine.adapter_version(path.adapter) if path.adapter else engine.model
                if model:
                    found.append(Target(engine, model))
        return found


async def follow(engines: Engines, name: str, address: str) -> None:
    """Keeps `engines` true to what the lora-server at `address` says of engine `name`, until cancelled."""
    async with open_channel(address) as channel:
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
