"""A monitored run of the help desk with a real Prometheus: a minute of load, then its engine is killed."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.grafana import generate
from deploy.grafana.generate import Panel
from tests.gateway.doubles.otlp_agent import Arrived
from tests.monitoring.help_desk import HelpDesk
from tests.monitoring.load import KINDS, Load, until
from tests.monitoring.watch import (
    Prometheus,
    Receiver,
    found,
    receiving,
    watching,
)

MINUTE = 60.0
"""Seconds of load before the fault."""

ANSWERS = 3
"""Required number of answers of each kind of path before the fault, because a rate needs a series with several
values."""

MAX_WAIT_SECONDS = 180.0
"""Maximum number of seconds to wait for ANSWERS after the minute, because adapters that share one slot are slow on a
busy machine."""

MAX_ALARM_SECONDS = 60.0
"""Maximum number of seconds from the fault to the notification."""

VARIABLES = {"__rate_interval": "15s", "cluster": "", "namespace": "", "path": ".*", "task": ".*", "adapter": ".*"}
"""Values of Grafana's variables: all values, and an interval of four scrapes or more."""

Series = list[dict[str, Any]]
"""Prometheus's result format, with `points` as pairs of Unix seconds and value."""


@dataclass(frozen=True)
class Shown:
    panel: Panel
    series: dict[str, Series]
    """By the letter of the panel's query, its result."""


@dataclass
class MonitoredRun:
    """The results of the run."""

    kinds: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    panels: list[Shown] = field(default_factory=list)
    recorded: dict[str, Series] = field(default_factory=dict)
    """By the name and labels of a recording rule, its result."""
    rules: list[dict[str, Any]] = field(default_factory=list)
    notified_before: list[dict[str, str]] = field(default_factory=list)
    notifications: list[dict[str, str]] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)
    """By job, the service's /metrics page after a minute."""
    spans: list[Arrived] = field(default_factory=list)
    """Spans that the collector behind the OpenTelemetry agent received."""
    exemplars: set[str] = field(default_factory=set)
    """Trace ids that Prometheus stores as exemplars of request latencies."""


async def spend(help_desk: HelpDesk, folder: Path) -> MonitoredRun:
    async with receiving() as (receiver, webhook), watching(folder, help_desk.targets, webhook) as prometheus:
        await found(lambda: _all_up(prometheus, help_desk), 60, "all targets are up")
        monitored_run, load = MonitoredRun(), Load(help_desk)
        started = time.time()
        asking = asyncio.create_task(load.run())
        begun = time.monotonic()
        await until(begun + MINUTE / 3)
        help_desk.change_configuration()
        await until(begun + MINUTE)
        await found(lambda: _all_kinds(load), MAX_WAIT_SECONDS, f"{ANSWERS} answers of each kind of path")
        calm = time.time()
        monitored_run.notified_before, monitored_run.exported = list(receiver.notifications), await _exported(help_desk)
        help_desk.kill_engine()
        await found(lambda: _alarmed(receiver), MAX_ALARM_SECONDS, f"alerts; received were {receiver.notifications}")
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        monitored_run.kinds, monitored_run.statuses, monitored_run.notifications = (
            dict(load.kinds),
            dict(load.statuses),
            receiver.notifications,
        )
        await _read(monitored_run, prometheus, started, calm)
        return monitored_run


async def _all_kinds(load: Load) -> bool:
    return len(load.kinds) == len(KINDS) and min(load.kinds.values()) >= ANSWERS


async def _exported(help_desk: HelpDesk) -> dict[str, str]:
    async with httpx.AsyncClient() as client:
        jobs = help_desk.targets.keys() - {"engine"}
        return {job: (await client.get(f"http://{help_desk.targets[job]}/metrics")).text for job in jobs}


async def _all_up(prometheus: Prometheus, help_desk: HelpDesk) -> bool:
    return await prometheus.are_up() == set(help_desk.targets)


async def _alarmed(receiver: Receiver) -> bool:
    return receiver.has(alertname="PointsmanTargetDown", job="pointsman-engine") and receiver.has(
        alertname="PointsmanBreakerOpen"
    )


async def _read(monitored_run: MonitoredRun, prometheus: Prometheus, started: float, calm: float) -> None:
    """Reads the results from Prometheus. `calm` is the time before the fault at which single numbers are read."""
    ended = time.time()
    for panel in generate.panels():
        series = {}
        for target in panel.targets:
            expr = generate.substituted(target.expr, VARIABLES)
            asked = prometheus.instant(expr, calm) if target.instant else prometheus.range(expr, started, ended)
            series[target.letter] = await asked
        monitored_run.panels.append(Shown(panel, series))
    monitored_run.exemplars = await prometheus.exemplars("pointsman_request_duration_seconds_bucket", started, ended)
    monitored_run.rules = await prometheus.rules()
    for rule in monitored_run.rules:
        if rule["type"] == "recording":
            selector = _selector(rule)
            monitored_run.recorded[selector] = await prometheus.range(selector, started, ended)


def _selector(rule: dict[str, Any]) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
    return f"{rule['name']}{{{labels}}}"
