"""Polls the metrics of the gateway and the lora-server, and the lora-server's list of adapters.

A service that does not answer is reported and polled again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import httpx
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.errors import PointsmanError, Unavailable
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.adapters.tables import STATE_NAMES
from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import lora_server_stub, open_channel, service_errors
from pointsman_cli.top.figures import (
    GATEWAY_METRICS,
    LORA_SERVER_METRICS,
    GatewayFigures,
    LoraFigures,
    gateway_figures,
    lora_figures,
)
from pointsman_cli.top.metrics import Scrape, Window, parse_metrics

ADAPTER_TIMEOUT_SECONDS = 2.0
_WITH_THE_ENGINE = frozenset({"loading", "warm", "serving", "draining"})

TIMEOUT_SECONDS = 2.0
"""Timeout in seconds of one request to /metrics."""


@dataclass(frozen=True, slots=True)
class AdapterView:
    """The state of one adapter version at an engine: whether it is loaded and pinned, and its aliases.

    `canary` has the aliases that send a share of their users to this version as a trial, with the share (0 to 1).
    """

    version: str  # "triage@3f9a1c0b77de"
    state: str  # "serving"
    resident: bool
    pinned: bool
    aliases: tuple[str, ...]  # that point to the version: "triage@prod"
    canary: Mapping[str, float]  # aliases that send a share of their users to it, with the share


@dataclass(frozen=True, slots=True)
class EngineAdapters:
    """The status of the engine that a lora-server runs, and the adapter versions that it holds, loads or unloads.

    `elsewhere` is the number of registered versions that this engine does not hold.
    """

    engine: str  # name in the gateway's configuration
    status: str  # "ready"
    detail: str  # what the engine is doing, or why it is down
    versions: tuple[AdapterView, ...]  # resident, or being loaded or unloaded
    elsewhere: int  # number of registered versions that this engine does not hold


async def fetch_adapter_view(channel: grpc.aio.Channel) -> EngineAdapters:
    """Returns the state of a lora-server's engine and its adapters; `channel` is open to the lora-server.

    Raises a PointsmanError if the call fails, Unavailable also if the lora-server sends no state.
    """
    server = lora_server_stub(channel)
    with service_errors("lora-server"):
        watching = server.Watch(pb.WatchRequest(), timeout=ADAPTER_TIMEOUT_SECONDS)
        try:
            engine = await watching.read()  # the first message holds the whole state
        finally:
            watching.cancel()
        found = await server.List(pb.ListAdaptersRequest(), timeout=ADAPTER_TIMEOUT_SECONDS)
    if not isinstance(engine, pb.EngineState):
        raise Unavailable("the lora-server sent no state of its engine", code="lora_server_unavailable")
    return _adapters(engine, found)


def _adapters(engine: pb.EngineState, found: pb.ListAdaptersResponse) -> EngineAdapters:
    versions = [_adapter(version, found.aliases, version.version in engine.resident) for version in found.versions]
    shown = tuple(each for each in versions if each.resident or each.state in _WITH_THE_ENGINE)
    status = pb.EngineStatus.Name(engine.status).removeprefix("ENGINE_STATUS_").lower()
    return EngineAdapters(engine.engine, status, engine.detail, shown, len(versions) - len(shown))


def _adapter(version: pb.AdapterVersion, aliases: Sequence[pb.Alias], resident: bool) -> AdapterView:
    name = version.version
    return AdapterView(
        version=name,
        state=STATE_NAMES[version.state],
        resident=resident,
        pinned=version.pinned,
        aliases=tuple(each.alias for each in aliases if each.version == name),
        canary={each.alias: each.canary_weight for each in aliases if each.canary_version == name},
    )


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """The addresses that `pointsman top` polls: two URLs of /metrics, and the lora-server's gRPC as "HOST:PORT"."""

    gateway: str  # "http://127.0.0.1:8080/metrics"
    lora_server: str  # "127.0.0.1:8083"
    lora_server_metrics: str  # "http://127.0.0.1:9083/metrics"


@dataclass(frozen=True, slots=True)
class View:
    """The result of one poll of the gateway and the lora-server by `pointsman top`.

    A field `..._problem` says why the poll of a service failed; it is empty if the poll succeeded. `gateway` and `lora`
    are None if the poll failed, and until the second poll. `adapters` is None if the poll failed.
    """

    where: ServiceAddresses
    unix_ms: int
    gateway: GatewayFigures | None
    gateway_problem: str
    lora: LoraFigures | None
    lora_problem: str
    adapters: EngineAdapters | None
    adapters_problem: str


class Services:
    """The open connections to a gateway and a lora-server, with their earlier metrics, for polling them repeatedly."""

    def __init__(
        self, where: ServiceAddresses, window: float, client: httpx.AsyncClient, channel: grpc.aio.Channel
    ) -> None:
        self._where = where
        self._gateway = _Metrics(where.gateway, GATEWAY_METRICS, Window(window), client)
        self._lora = _Metrics(where.lora_server_metrics, LORA_SERVER_METRICS, Window(window), client)
        self._channel = channel
        self._adapters: EngineAdapters | None = None
        self._adapters_problem = ""

    async def look(self) -> View:
        """Polls the gateway and the lora-server at the same time, and returns their numbers.

        Raises no error: if a service does not answer, a field `..._problem` of the result says why.
        """
        await asyncio.gather(self._gateway.look(), self._lora.look(), self._look_at_adapters())
        return View(
            where=self._where,
            unix_ms=time.time_ns() // 1_000_000,
            gateway=None if self._gateway.problem else gateway_figures(self._gateway.window),
            gateway_problem=self._gateway.problem,
            lora=None if self._lora.problem else lora_figures(self._lora.window),
            lora_problem=self._lora.problem,
            adapters=self._adapters,
            adapters_problem=self._adapters_problem,
        )

    async def _look_at_adapters(self) -> None:
        try:
            self._adapters, self._adapters_problem = await fetch_adapter_view(self._channel), ""
        except PointsmanError as error:
            self._adapters, self._adapters_problem = None, error.message


@asynccontextmanager
async def services(where: ServiceAddresses, window: float) -> AsyncIterator[Services]:
    """Opens connections to the gateway and the lora-server for polling, and closes them after the `async with` block.

    Figures cover the last `window` seconds, and at least the last two polls. Raises CommandError if a file for TLS or
    tokens cannot be used.
    """
    headers = {"accept": "text/plain"}
    async with (
        open_async_client(timeout=TIMEOUT_SECONDS, trust_env=False, headers=headers) as client,
        open_channel(where.lora_server) as channel,
    ):
        yield Services(where, window, client, channel)


class _Metrics:
    def __init__(self, url: str, wanted: tuple[str, ...], window: Window, client: httpx.AsyncClient) -> None:
        self._url = url
        self._wanted = wanted
        self._client = client
        self.window = window
        self.problem = ""

    async def look(self) -> None:
        try:
            self.window.add(await self._scrape())
            self.problem = ""
        except CommandError as error:
            self.problem = str(error)

    async def _scrape(self) -> Scrape:
        """Reads a service's metrics; raises CommandError with the reason if they cannot be read."""
        try:
            answer = (await self._client.get(self._url)).raise_for_status()
            return parse_metrics(answer.text, time.monotonic(), self._wanted)
        except httpx.HTTPStatusError as error:
            raise CommandError(f"{self._url} answers {error.response.status_code} instead of metrics") from error
        except httpx.TimeoutException as error:
            raise CommandError(f"{self._url} does not answer within {TIMEOUT_SECONDS:g} s") from error
        except httpx.HTTPError as error:
            raise CommandError(f"{self._url} cannot be reached: {error or type(error).__name__}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise CommandError(f"{self._url} cannot be read: {error}") from error
