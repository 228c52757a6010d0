"""`pointsman top`: polls the services in a loop, and shows their traffic and adapters as tables or JSON."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pointsman_cli.data_dir import find_run
from pointsman_cli.errors import run_interruptibly
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_LORA_SERVER,
    DEFAULT_URL,
    DataDirOption,
    JsonOption,
    LoraServerOption,
    UrlOption,
    plain_table,
    web_url,
)
from pointsman_cli.top.figures import GatewayFigures, LoraFigures, PathFigures
from pointsman_cli.top.services import AdapterView, EngineAdapters, ServiceAddresses, Services, View, services

_NOTHING = "-"
_COLUMNS = ("share", "req/s", "p50", "p95", "TTFT\np50", "TTFT\np95", "tok/s", "$ per\n1k", "fell\nback", "failed")

DEFAULT_LORA_METRICS = "127.0.0.1:9083"
WINDOW = 10.0


def top_view(view: View) -> RenderableType:
    return Group(*_gateway(view), Text(), *_lora_server(view))


def as_json(view: View) -> dict[str, Any]:
    """Returns what `pointsman top --json` prints: `unix_ms`, the time of the poll, and one object for each service.

    The objects `gateway`, `lora_server` and `adapters` have a `url` or `address`, and a `problem` that is empty if the
    service answers. If it answers, they also have the fields of GatewayFigures, LoraFigures or EngineAdapters. The
    fields of GatewayFigures and LoraFigures are missing until the second poll.
    """
    return {
        "unix_ms": view.unix_ms,
        "gateway": {"url": view.where.gateway, "problem": view.gateway_problem, **_fields(view.gateway)},
        "lora_server": {
            "url": view.where.lora_server_metrics,
            "problem": view.lora_problem,
            **_fields(view.lora),
        },
        "adapters": {
            "address": view.where.lora_server,
            "problem": view.adapters_problem,
            **_fields(view.adapters),
        },
    }


def _fields(figures: GatewayFigures | LoraFigures | EngineAdapters | None) -> dict[str, Any]:
    return asdict(figures) if figures else {}


def _gateway(view: View) -> Iterator[RenderableType]:
    if view.gateway_problem:
        yield _bad(f"gateway is away: {view.gateway_problem}")
        return
    if view.gateway is None:
        yield Text(f"gateway {view.where.gateway}: waiting for a second look")
        return
    figures = view.gateway
    yield Text(f"gateway {view.where.gateway}", style="dim")
    yield Text(f"{_rate(figures.requests_per_second)} requests/s over the last {figures.seconds:.3g} s")
    yield _paths(figures) if figures.paths else Text("no request has come to its end yet")
    lag = figures.event_loop_lag_seconds
    yield Text()
    yield Text(
        f"in flight {_count(figures.in_flight)}, waiting {_count(figures.waiting)}, "
        f"event loop late by {_seconds(lag.p50)} (p50), {_seconds(lag.p99)} (p99)"
    )
    for worker in figures.workers:
        state = f"up, in flight {_count(worker.in_flight)}" if worker.up else "down"
        line = f"worker {worker.worker} {state}, replaced {_count(worker.restarts)} times"
        yield Text(line) if worker.up else _bad(line)
    if figures.open_breakers:
        yield _bad(f"given up for now: engine {', '.join(figures.open_breakers)}")
    if figures.redis_up is False:
        yield _bad("the gateway has no Redis")


def _paths(figures: GatewayFigures) -> Table:
    table = plain_table("path", gap=1)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for path in figures.paths:
        table.add_row(Text(path.path), *_row(path), style="" if path.requests else "dim")
    return table


def _row(path: PathFigures) -> Iterator[str]:
    yield _NOTHING if path.share is None else f"{path.share:.0%}"
    yield _rate(path.requests_per_second)
    yield from (_seconds(value) for value in (path.seconds.p50, path.seconds.p95))
    yield from (_seconds(value) for value in (path.first_token_seconds.p50, path.first_token_seconds.p95))
    yield _rate(path.tokens_per_second["completion"])
    yield _dollars(path.usd_per_1k_requests)
    yield _count(path.fallbacks)
    yield _count(path.failures)


def _lora_server(view: View) -> Iterator[RenderableType]:
    if view.lora_problem:
        yield _bad(f"lora-server's metrics are away: {view.lora_problem}")
    elif view.lora is not None:
        yield from _engine(view.lora)
    if view.adapters is None:
        yield _bad(f"adapters cannot be listed: {view.adapters_problem}")
        return
    if view.adapters.status != "ready":
        yield _bad(f"engine {view.adapters.engine} is {view.adapters.status}: {view.adapters.detail}")
    yield from _adapters(view.adapters)


def _engine(figures: LoraFigures) -> Iterator[Text]:
    alias_state = f"engine {'up' if figures.engine_up else 'down'}, restarted {_count(figures.engine_restarts)} times"
    yield Text(alias_state, style="" if figures.engine_up else "red")
    loads = ", ".join(f"{_count(amount)} {result}" for result, amount in sorted(figures.loads.items()))
    yield Text(
        f"adapter slots {_count(figures.resident)} of {_count(figures.slots)}; "
        f"loads {loads or '0'}, evictions {_count(figures.evictions)}"
    )
    if figures.redis_up is False:
        yield _bad("the lora-server has no Redis")


def _adapters(adapters: EngineAdapters) -> Iterator[RenderableType]:
    if adapters.versions:
        table = plain_table("adapter", "state", "in use as")
        for each in adapters.versions:
            table.add_row(Text(each.version), each.state, Text(_uses(each)))
        yield table
    if adapters.elsewhere:
        yield Text(f"not in this engine: {adapters.elsewhere} more", style="dim")


def _uses(adapter: AdapterView) -> str:
    words = [*adapter.aliases, *(f"{alias} for {share:.4g}" for alias, share in adapter.canary.items())]
    return ", ".join([*words, "pinned"] if adapter.pinned else words)


def _bad(line: str) -> Text:
    return Text(line, style="red")


def _seconds(value: float | None) -> str:
    """Formats a duration in seconds for a table column: milliseconds below one second; "-" for None."""
    if value is None:
        return _NOTHING
    if value < 0.0095:
        return f"{1000 * value:.1f}ms"
    if value < 0.9995:
        return f"{1000 * value:.0f}ms"
    return f"{value:.2f}s" if value < 9.995 else f"{value:.1f}s" if value < 99.95 else f"{value:.0f}s"


def _rate(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _dollars(value: float | None) -> str:
    if value is None:
        return _NOTHING
    if 0 < value < 0.00005:
        return "<.0001"
    return f"{value:.4f}" if value < 9.99995 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0f}"


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one table after one interval and exit.")] = False,
    in_json: JsonOption = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between updates.")] = 1.0,
    window: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time over which rates and percentiles are computed.")
    ] = WINDOW,
    gateway: UrlOption = "",
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
    """Returns the addresses to poll. An address that is not given is taken from the running `pointsman up`; if nothing
    runs, the default address is used.

    `gateway` and `lora_metrics` may leave out `http://` and `/metrics`, which are added. Raises UsageError if a given
    address is not a URL, or run.json cannot be opened.
    """
    run = find_run(data_dir)
    gateway = gateway or (run.gateway_metrics if run else DEFAULT_URL)
    metrics = lora_metrics or (run and run.lora_server_metrics) or DEFAULT_LORA_METRICS
    lora_server = lora_server or (run and run.lora_server) or DEFAULT_LORA_SERVER
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
    """Prints the figures at each interval, each JSON view on one line."""
    await watched.look()
    async for view in _looks(watched, interval):
        _show(console, view, in_json)


async def _looks(watched: Services, interval: float) -> AsyncIterator[View]:
    """Polls the services every `interval` seconds, and yields each view, the first after one interval."""
    due = time.monotonic()
    while True:
        due = max(due + interval, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        yield await watched.look()


def _show(console: Console, view: View, in_json: bool) -> None:
    """Prints a view with `print`, which raises an error for a broken pipe; rich would raise SystemExit in a task."""
    if in_json:
        print(json.dumps(as_json(view)), flush=True)
    else:
        with console.capture() as captured:
            console.print(top_view(view))
        print(captured.get(), end="", flush=True)
