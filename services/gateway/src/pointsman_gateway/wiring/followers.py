"""One follower for each engine that some generation names: generations share what is known of an engine."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from pointsman_servicekit.grpc_client import Interceptors
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.backends.aliases import Aliases
from pointsman_gateway.backends.engines import Cell, Engines
from pointsman_gateway.backends.lora_server import follow
from pointsman_gateway.backends.metrics import EngineMetrics
from pointsman_gateway.config.schema import EngineConfig
from pointsman_gateway.wiring.line import to_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Followed:
    cell: Cell
    task: asyncio.Task[None] | None
    """None for an engine that has no lora-server."""


class Followers:
    """Keeps the cells of the engines true."""

    def __init__(self, metrics: EngineMetrics, tls: ClientTls | None = None, interceptors: Interceptors = ()) -> None:
        """`tls`: how the lora-servers are spoken to; `interceptors` stand around each call to them."""
        self.aliases = Aliases()
        self._metrics = metrics
        self._tls = tls
        self._interceptors = interceptors
        self._followed: dict[tuple[str, EngineConfig], _Followed] = {}

    async def cells(self, engines: Mapping[str, EngineConfig], patience: float = 0.0) -> list[Cell]:
        """The cells of `engines`, those it did not know followed from now on.

        Waits up to `patience` seconds until each of those has been heard of: a generation that serves before it has
        would refuse what the one before could answer. Raises ConfigError.
        """
        wanted = _identities(engines)
        made = {key: Cell(to_engine(*key)) for key in wanted if key not in self._followed}
        for key, cell in made.items():
            self._followed[key] = _Followed(cell, self._start(key, cell))
        new = [cell for (_, config), cell in made.items() if config.lora_server]
        if new and patience:
            await _heard_of(new, patience)
        return [self._followed[key].cell for key in wanted]

    def keep(self, engines: Mapping[str, EngineConfig]) -> None:
        """Stops following all others; what is known of them stays with the requests that still need it."""
        wanted = _identities(engines)
        for key in [key for key in self._followed if key not in wanted]:
            followed = self._followed.pop(key)
            if followed.task:
                followed.task.cancel()
                name, _ = key
                if name not in engines or not engines[name].lora_server:
                    self.aliases.forget(name)

    def _start(self, key: tuple[str, EngineConfig], cell: Cell) -> asyncio.Task[None] | None:
        name, config = key
        if not config.lora_server:
            return None
        engines = Engines([cell], aliases=self.aliases)
        following = follow(engines, name, config.lora_server, self._metrics, self._tls, self._interceptors)
        return asyncio.create_task(following, name=f"follow {name}")

    async def __aenter__(self) -> "Followers":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [followed.task for followed in self._followed.values() if followed.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _identities(engines: Mapping[str, EngineConfig]) -> list[tuple[str, EngineConfig]]:
    return [(name, config.identity) for name, config in engines.items()]


async def _heard_of(cells: list[Cell], patience: float) -> None:
    until = asyncio.get_running_loop().time() + patience
    while not all(cell.engine.heard_of for cell in cells) and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # a cell is a value, no event
        await asyncio.sleep(0.02)
