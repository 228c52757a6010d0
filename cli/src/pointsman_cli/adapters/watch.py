"""`pointsman adapters watch`: shows the states of adapters, and which ones the engine has loaded, as they change."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import PointsmanError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pointsman_cli.adapters.tables import STATE_NAMES, adapters_table
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.grpc_clients import fetch_adapters, lora_server_stub, open_channel, service_errors
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    AdapterArgument,
    DataDirOption,
    LoraServerOption,
    lora_server_address,
)

POLL_SECONDS = 1.0
"""Seconds after which `watch` lists the adapters again, if the engine's state does not change before."""

_STATUS = {number: name.removeprefix("ENGINE_STATUS_").lower() for name, number in pb.EngineStatus.items()}


def watch(
    name: AdapterArgument = "", lora_server: LoraServerOption = "", data_dir: DataDirOption = DEFAULT_DATA_DIR
) -> None:
    """Show the states of adapters and the engine's loaded adapters live, until Ctrl-C.

    Without a terminal, prints one line per change.
    """
    run_interruptibly(_watch(lora_server_address(lora_server, data_dir), name))


@dataclass
class _Snapshot:
    engine: pb.EngineState = field(default_factory=pb.EngineState)
    adapters: pb.ListAdaptersResponse = field(default_factory=pb.ListAdaptersResponse)
    problem: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


async def _watch(address: str, name: str) -> None:
    seen = _Snapshot()
    seen.adapters = await fetch_adapters(address, name)  # an error here ends the command; later errors are shown
    following = asyncio.create_task(_follow(address, seen))
    console = Console(highlight=False)
    try:
        if console.is_terminal:
            await _live(console, address, name, seen)
        else:
            await _lines(console, address, name, seen)
    except asyncio.CancelledError:
        return  # Ctrl-C is the normal end
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _follow(address: str, seen: _Snapshot) -> None:
    """Copies each state of the lora-server's engine into `seen`, until cancelled.

    Reconnects when the stream ends. After a PointsmanError, also stores its message in `seen.problem`.
    """
    while True:
        try:
            async with open_channel(address) as channel:
                with service_errors("lora-server"):
                    async for seen.engine in lora_server_stub(channel).Watch(pb.WatchRequest()):
                        seen.problem = ""
                        seen.changed.set()
        except PointsmanError as error:
            seen.problem = error.message
            seen.changed.set()
        await asyncio.sleep(POLL_SECONDS)


async def _look(address: str, name: str, seen: _Snapshot) -> None:
    """Waits for a change of the engine's state, at most `POLL_SECONDS`, then stores the list of adapters in `seen`.

    The wait is bounded because a version's state can change without a change of the engine's. The message of a
    PointsmanError is stored in `seen.problem`.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await seen.changed.wait()
    seen.changed.clear()
    try:
        seen.adapters = await fetch_adapters(address, name)
    except PointsmanError as error:
        seen.problem = error.message


async def _live(console: Console, address: str, name: str, seen: _Snapshot) -> None:
    with Live(_page(seen), console=console, auto_refresh=False) as live:
        while True:
            await _look(address, name, seen)
            live.update(_page(seen), refresh=True)


async def _lines(console: Console, address: str, name: str, seen: _Snapshot) -> None:
    before: dict[str, str] = {}
    while True:
        now = _facts(seen)
        for line in _changes(before, now):
            console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, soft_wrap=True)
        before = now
        await _look(address, name, seen)


def _page(seen: _Snapshot) -> RenderableType:
    lines = [Text(f"engine {_engine(seen)}")]
    if seen.problem:
        lines.append(Text(seen.problem, style="red"))
    return Group(*lines, Text(), adapters_table(seen.adapters.versions, seen.adapters.aliases))


def _facts(seen: _Snapshot) -> dict[str, str]:
    """Returns a line of text for each version and alias, by its name, and for "engine" and "problem" if known.

    `_lines` prints each line that has changed.
    """
    facts = {"engine": _engine(seen)} if seen.engine.sequence else {}
    for version in seen.adapters.versions:
        why = f": {version.last_error}" if version.last_error else ""
        facts[version.version] = f"{STATE_NAMES[version.state]}{', pinned' if version.pinned else ''}{why}"
    for alias in seen.adapters.aliases:
        canary = f", {alias.canary_version} at {alias.canary_weight:.4g}" if alias.canary_version else ""
        facts[alias.alias] = f"{alias.version}{canary}"
    return facts | ({"problem": seen.problem} if seen.problem else {})


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changed = [f"{of} {fact}" for of, fact in now.items() if before.get(of) != fact]
    return changed + [f"{of} is gone" for of in before if of not in now]


def _engine(seen: _Snapshot) -> str:
    engine = seen.engine
    detail = f" ({engine.detail})" if engine.detail else ""
    return f"{engine.engine} is {_STATUS[engine.status]}{detail}, holds {', '.join(engine.resident) or 'no adapter'}"
