"""`pointsman top`: the command and its refresh loop."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from pointsman_cli.data_dir import find_run
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_LORA_SERVER,
    DEFAULT_URL,
    DataDirOption,
    JsonOption,
    LoraServerOption,
    web_url,
)
from pointsman_cli.top.services import ServiceAddresses, Services, View, services
from pointsman_cli.top.tables import as_json, top_view

DEFAULT_LORA_METRICS = "127.0.0.1:9083"
WINDOW = 10.0


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one table after one interval and exit.")] = False,
    in_json: JsonOption = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between updates.")] = 1.0,
    window: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time over which rates and percentiles are computed.")
    ] = WINDOW,
    gateway: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help=f"The gateway; default: the running `pointsman up`, then {DEFAULT_URL}.",
            show_default=False,
        ),
    ] = "",
    lora_server: LoraServerOption = "",
    lora_metrics: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help=f"Metrics of the lora-server; default: the running `pointsman up`, then {DEFAULT_LORA_METRICS}.",
            show_default=False,
        ),
    ] = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show share, latency, tokens and cost of each path, and the adapters, live until Ctrl-C.

    Reads /metrics of the gateway and the lora-server; needs neither Prometheus nor a key. Services that do not answer
    are reported and tried again. With --once, the exit code is 1 if the gateway does not answer.
    """
    console = Console(highlight=False)
    where = find_services(gateway, lora_server, lora_metrics, data_dir)
    if once:
        view = run_interruptibly(_once(where, interval))
        _show(console, view, in_json)
        raise typer.Exit(1 if view.gateway_problem else 0)
    run_interruptibly(_keep_showing(console, where, max(window, interval), interval, in_json))


def find_services(gateway: str, lora_server: str, lora_metrics: str, data_dir: Path) -> ServiceAddresses:
    """Returns the given addresses, else those of the running `pointsman up`, else the usual ports."""
    run = find_run(data_dir)
    gateway = gateway or (run.gateway_metrics if run else DEFAULT_URL)
    metrics = lora_metrics or (run.lora_server_metrics if run else DEFAULT_LORA_METRICS)
    lora_server = lora_server or (run.lora_server if run else DEFAULT_LORA_SERVER)
    return ServiceAddresses(_metrics_url(gateway), lora_server, _metrics_url(metrics))


def _metrics_url(address: str) -> str:
    url = web_url(address)
    return url if url.endswith("/metrics") else f"{url}/metrics"


async def _once(where: ServiceAddresses, interval: float) -> View:
    async with services(where, interval) as watched:
        await watched.look()
        await asyncio.sleep(interval)
        return await watched.look()


async def _keep_showing(
    console: Console, where: ServiceAddresses, window: float, interval: float, in_json: bool
) -> None:
    try:
        async with services(where, window) as watched:
            if console.is_terminal and not in_json:
                await _live(console, watched, interval)
            else:
                await _print(console, watched, interval, in_json)
    except asyncio.CancelledError:
        return  # Ctrl-C is the normal end


async def _live(console: Console, watched: Services, interval: float) -> None:
    with Live(top_view(await watched.look()), console=console, auto_refresh=False) as live:
        async for view in _looks(watched, interval):
            live.update(top_view(view), refresh=True)


async def _print(console: Console, watched: Services, interval: float, in_json: bool) -> None:
    """Prints a view at each interval; JSON on one line."""
    await watched.look()
    async for view in _looks(watched, interval):
        _show(console, view, in_json)


async def _looks(watched: Services, interval: float) -> AsyncIterator[View]:
    """Yields views at a steady pace, the first after one interval."""
    due = time.monotonic()
    while True:
        due = max(due + interval, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        yield await watched.look()


def _show(console: Console, view: View, in_json: bool) -> None:
    """Uses `print`, which raises an error for a broken pipe; the rich console would raise SystemExit inside a task."""
    if in_json:
        print(json.dumps(as_json(view)), flush=True)
    else:
        with console.capture() as captured:
            console.print(top_view(view))
        print(captured.get(), end="", flush=True)
