"""Runs a real Prometheus and a real Alertmanager with the configuration in deploy/ and shorter times, and a receiver of
alerts."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from aiohttp import web

from tests.ports import free_address

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMETHEUS = ("prometheus",)
PROMTOOL = ("promtool",)
ALERTMANAGER = ("prometheus-alertmanager", "alertmanager")
"""Names of the program; the first one is Debian's."""

EVERY = "3s"
"""Interval of scrapes and of rule evaluation."""

PATIENCE = "6s"
"""Replaces the `for` of every alert."""

Found = TypeVar("Found")


def program(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


async def found(look: Callable[[], Awaitable[Found]], within: float, what: str) -> Found:
    """Returns the first value that `look` finds; raises AssertionError if that takes too long."""
    try:
        async with asyncio.timeout(within):
            while True:
                if something := await look():
                    return something
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}") from None


class Receiver:
    """Receives alerts in place of the webhooks in deploy/prometheus/alertmanager.yml."""

    def __init__(self) -> None:
        self.notifications: list[dict[str, str]] = []
        """The labels of each received alert in order, with `receiver`."""

    async def take(self, request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            if alert["status"] == "firing":
                self.notifications.append(alert["labels"] | {"receiver": request.match_info["receiver"]})
        return web.Response()

    def has(self, **labels: str) -> bool:
        return any(labels.items() <= notification.items() for notification in self.notifications)


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    """Runs a receiver, and yields it with its address."""
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/{receiver}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield receiver, f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Prometheus:
    client: httpx.AsyncClient

    async def instant(self, expr: str, at: float) -> list[dict[str, Any]]:
        """Returns the series of an instant query, each with one value."""
        return await self._series("query", {"query": expr, "time": at})

    async def range(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """Returns the series of a range query with a step of three seconds."""
        return await self._series("query_range", {"query": expr, "start": start, "end": end, "step": 3})

    async def exemplars(self, selector: str, start: float, end: float) -> set[str]:
        """Returns the trace ids of the exemplars of the selected series."""
        found = await self._data("query_exemplars", {"query": selector, "start": start, "end": end})
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self._data("rules", {}))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def are_up(self) -> set[str]:
        up = (target["labels"]["job"] for target in await self._targets() if target["health"] == "up")
        return {job.removeprefix("pointsman-") for job in up}

    async def _targets(self) -> list[dict[str, Any]]:
        targets: list[dict[str, Any]] = (await self._data("targets", {}))["activeTargets"]
        return targets

    async def _series(self, route: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._data(route, asked))["result"]
        for series in found:
            points = series["values"] if "values" in series else [series["value"]]
            series["points"] = [(at, float(value)) for at, value in points]
        return found

    async def _data(self, route: str, asked: Mapping[str, Any]) -> Any:
        answer = (
            await self.client.post(f"/api/v1/{route}", data=asked)
            if asked
            else await self.client.get(f"/api/v1/{route}")
        )
        assert answer.status_code == 200, f"{asked}: {answer.text}"
        return answer.json()["data"]


@asynccontextmanager
async def watching(folder: Path, targets: Mapping[str, str], webhook: str = "") -> AsyncIterator[Prometheus]:
    """Runs Prometheus and, with a `webhook`, Alertmanager, with state in `folder`, which must be empty.

    `targets` are addresses by service, separated by spaces if a job has several.
    """
    shutil.copytree(DEPLOY, folder / "deploy")
    alertmanager, prometheus = free_address(), free_address()
    _make_impatient(folder / "deploy", targets, alertmanager, webhook)
    arguments = [
        f"--config.file={folder}/deploy/alertmanager.yml",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={alertmanager}",
        "--cluster.listen-address=",
    ]
    seen = [
        f"--config.file={folder}/deploy/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address={prometheus}",
        "--enable-feature=exemplar-storage",
    ]
    async with (
        _running(ALERTMANAGER, arguments, folder) if webhook else nullcontext(),
        _running(PROMETHEUS, seen, folder),
        httpx.AsyncClient(base_url=f"http://{prometheus}", timeout=30) as client,
    ):
        yield Prometheus(client)


@asynccontextmanager
async def _running(names: tuple[str, ...], options: list[str], folder: Path) -> AsyncIterator[None]:
    """Starts a program, waits until it is ready, and ends it after the block."""
    command = program(names)
    assert command, f"{names[0]} is not installed"
    listens = next(option for option in options if option.startswith("--web.listen-address=")).partition("=")[2]
    with (folder / f"{names[0]}.log").open("wb") as log:
        process = subprocess.Popen([command, *options], stdout=log, stderr=log)  # noqa: ASYNC220  # it forks at once
        try:
            await found(lambda: _is_ready(listens), 30, f"{names[0]} is ready; its log is {log.name}")
            yield
        finally:
            process.terminate()
            process.wait()


async def _is_ready(address: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://{address}/-/ready")).status_code == 200
    except httpx.TransportError:
        return False


def _make_impatient(deploy: Path, targets: Mapping[str, str], alertmanager: str, webhook: str) -> None:
    """Edits the configuration: seconds instead of minutes, and this run's addresses. Everything else is unchanged."""
    _change(deploy / "prometheus.yml", lambda config: _watch_closely(config, alertmanager))
    for service, address in targets.items():
        (deploy / "targets" / f"{service}.yml").write_text(yaml.safe_dump([{"targets": address.split()}]))
    for rules in (deploy / "rules").glob("*.yml"):
        _change(rules, _hurry)
    _change(deploy / "alertmanager.yml", lambda config: _tell_at_once(config, webhook))


def _change(path: Path, change: Callable[[Any], None]) -> None:
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def _watch_closely(config: Any, alertmanager: str) -> None:
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]


def _hurry(rules: Any) -> None:
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = PATIENCE


def _tell_at_once(config: Any, webhook: str) -> None:
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s"}
    config["route"] |= {"group_interval": "2s"}
    for receiver in config["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = f"http://{webhook}/{receiver['name']}"
