"""One follower for each engine and group that some generation names: generations share what is known of an engine."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

from pointsman_servicekit.grpc_client import Interceptors, Token
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.bootstrap.stages import to_engine
from pointsman_gateway.config.models_file import DnsName
from pointsman_gateway.config.schema import EngineConfig, ModelsFile
from pointsman_gateway.engines.dns_groups import Group, Resolver
from pointsman_gateway.engines.engine_state import Aliases
from pointsman_gateway.engines.engines import Cell, Engine, Engines, plans
from pointsman_gateway.engines.lora_server import follow
from pointsman_gateway.engines.metrics import EngineMetrics

_Key = tuple[str, EngineConfig]
"""The name, and what makes it that engine or group."""


class Followed(Protocol):
    """An engine, or a group of them."""

    @property
    def cells(self) -> Sequence[Cell]: ...

    def leave(self) -> None:
        """It is followed no more."""
        ...


@dataclass(frozen=True, slots=True)
class _One:
    """Implements `Followed`, and the groups' `Seat`."""

    cell: Cell
    task: asyncio.Task[None] | None
    """None for an engine that has no lora-server."""
    told: Aliases | None = None
    """Where it is forgotten what a group's member told: another one may have its name a moment later."""

    @property
    def cells(self) -> Sequence[Cell]:
        return [self.cell]

    def leave(self) -> None:
        if self.task:
            self.task.cancel()
        if self.told:
            self.told.forget(self.cell.engine.name)


@dataclass(frozen=True, slots=True)
class _Several:
    """Implements `Followed`."""

    group: Group
    task: asyncio.Task[None]

    @property
    def cells(self) -> Sequence[Cell]:
        return self.group.cells

    def leave(self) -> None:
        self.task.cancel()
        self.group.leave()


class Followers:
    """Keeps the cells of the engines true, and the engines of the generation that serves complete."""

    def __init__(
        self,
        metrics: EngineMetrics,
        resolver: Resolver,
        tls: ClientTls | None = None,
        interceptors: Interceptors = (),
        token: Token | None = None,
    ) -> None:
        """`tls`, `interceptors` and `token` are those of the channels to the lora-servers."""
        self.aliases = Aliases()
        self._metrics = metrics
        self._resolver = resolver
        self._tls = tls
        self._interceptors = interceptors
        self._token = token
        self._followed: dict[_Key, Followed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: tuple[Engines, Sequence[_Key]] | None = None

    async def engines(self, models: ModelsFile, patience: float = 0.0) -> Engines:
        """Those of `models`, the ones that it did not know followed from now on.

        Waits up to `patience` seconds until each of those has been heard of: a generation that serves before it has
        would refuse what the one before could answer. Raises ConfigError.
        """
        wanted = _identities(models.engines)
        made = {key: to_engine(*key) for key in wanted if key not in self._followed}
        for key, engine in made.items():
            self._followed[key] = self._start(key, engine)
        new = [self._followed[key] for key in made if key[1].lora_server or key[1].group]
        if new and patience:
            await _heard_of(new, patience)
        return Engines(self._cells(wanted), plans(models), self.aliases)

    def keep(self, engines: Engines, models: ModelsFile) -> None:
        """`engines` serve now, as members of their groups come and go; all others are followed no more.

        What is known of those stays with the requests that still need it.
        """
        wanted = _identities(models.engines)
        for key in [key for key in self._followed if key not in wanted]:
            name, config = key
            self._followed.pop(key).leave()
            if config.lora_server and (name not in models.engines or not models.engines[name].lora_server):
                self.aliases.forget(name)
        self._kept = engines, wanted
        engines.seat(self._cells(wanted))

    def _cells(self, wanted: Sequence[_Key]) -> list[Cell]:
        return [cell for key in wanted for cell in self._followed[key].cells]

    def _seat(self) -> None:
        if self._kept:
            engines, wanted = self._kept
            engines.seat(self._cells(wanted))

    def _start(self, key: _Key, engine: Engine) -> Followed:
        _, config = key
        if not config.group:
            cell = Cell(engine)
            return _One(cell, self._follow(cell, config.lora_server, self._tls) if config.lora_server else None)
        return self._start_group(engine, config, config.group)

    def _start_group(self, engine: Engine, config: EngineConfig, where: DnsName) -> _Several:
        tls = self._tls and replace(self._tls, server_name=self._tls.server_name or where.host)

        def seat(member: Engine) -> _One:
            cell = Cell(member)
            return _One(cell, self._follow(cell, member.place, tls) if config.lora_server else None, self.aliases)

        group = Group(engine, where, config.endpoint_limit, seat, self._seat, self._metrics)
        return _Several(group, self._task(group.follow(self._resolver), f"look up {engine.name}"))

    def _follow(self, cell: Cell, address: str, tls: ClientTls | None) -> asyncio.Task[None]:
        name = cell.engine.name
        engines, options = Engines([cell], aliases=self.aliases), (tls, self._interceptors, self._token)
        following = follow(engines, name, address, self._metrics, *options)
        return self._task(following, f"follow {name}")

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> "Followers":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _identities(engines: Mapping[str, EngineConfig]) -> list[_Key]:
    return [(name, config.identity) for name, config in engines.items()]


async def _heard_of(followed: Sequence[Followed], patience: float) -> None:
    until = asyncio.get_running_loop().time() + patience

    def somebody_is_silent() -> bool:
        return any(not cell.engine.heard_of for one in followed for cell in one.cells)

    while somebody_is_silent() and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # a cell is a value, no event
        await asyncio.sleep(0.02)
