"""Shows a view as tables of 80 columns, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.top.figures import GatewayFigures, LoraFigures, PathFigures
from pointsman_cli.top.services import AdapterView, EngineAdapters, View

_NOTHING = "-"
_COLUMNS = ("share", "req/s", "p50", "p95", "TTFT\np50", "TTFT\np95", "tok/s", "$ per\n1k", "fell\nback", "failed")


def top_view(view: View) -> RenderableType:
    return Group(*_gateway(view), Text(), *_lora_server(view))


def as_json(view: View) -> dict[str, Any]:
    """A service that does not answer has no figures; its `problem` says why."""
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
    if figures.open_breakers:
        yield _bad(f"given up for now: engine {', '.join(figures.open_breakers)}")
    if figures.redis_up is False:
        yield _bad("the gateway has no Redis")


def _paths(figures: GatewayFigures) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("path", overflow="fold", vertical="bottom")
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
        yield _bad(f"adapters cannot be told: {view.adapters_problem}")
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
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for column in ("adapter", "state", "in use as"):
            table.add_column(column, overflow="fold")
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
    """At most six characters below three hours."""
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
