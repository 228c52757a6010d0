"""The gateway and the lora-server, looked at again and again; one that is away is told of, and asked again."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import httpx
from pointsman_servicekit.errors import PointsmanError

from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import open_channel
from pointsman_cli.top import adapters
from pointsman_cli.top.adapters import Adapters
from pointsman_cli.top.figures import (
    OF_GATEWAY,
    OF_LORA_SERVER,
    GatewayFigures,
    LoraFigures,
    gateway_figures,
    lora_figures,
)
from pointsman_cli.top.scrape import Scrape, parse
from pointsman_cli.top.window import Window

SECONDS = 2.0
"""For an answer."""


@dataclass(frozen=True, slots=True)
class Where:
    gateway: str  # "http://127.0.0.1:8080/metrics"
    lora_server: str  # "127.0.0.1:8083"
    lora_server_metrics: str  # "http://127.0.0.1:9083/metrics"


@dataclass(frozen=True, slots=True)
class View:
    """One look at all. Figures are None until there are two scrapes; a problem is why the last look got nothing."""

    where: Where
    unix_ms: int
    gateway: GatewayFigures | None
    gateway_problem: str
    lora: LoraFigures | None
    lora_problem: str
    adapters: Adapters | None
    adapters_problem: str


class Services:
    def __init__(self, where: Where, window: float, client: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self._where = where
        self._gateway = _Metrics(where.gateway, OF_GATEWAY, Window(window), client)
        self._lora = _Metrics(where.lora_server_metrics, OF_LORA_SERVER, Window(window), client)
        self._channel = channel
        self._adapters: Adapters | None = None
        self._adapters_problem = ""

    async def look(self) -> View:
        """At all of them at once; never raises for one that is away."""
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
            self._adapters, self._adapters_problem = await adapters.look(self._channel), ""
        except PointsmanError as error:
            self._adapters, self._adapters_problem = None, error.message


@asynccontextmanager
async def services(where: Where, window: float) -> AsyncIterator[Services]:
    """`window`: the seconds that figures are of."""
    headers = {"accept": "text/plain"}
    async with (
        httpx.AsyncClient(timeout=SECONDS, trust_env=False, headers=headers) as client,
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
        """Raises `CommandError` with what is the matter."""
        try:
            answer = (await self._client.get(self._url)).raise_for_status()
            return parse(answer.text, time.monotonic(), self._wanted)
        except httpx.HTTPStatusError as error:
            raise CommandError(f"{self._url} answers {error.response.status_code}") from error
        except httpx.TimeoutException as error:
            raise CommandError(f"{self._url} does not answer within {SECONDS:g} s") from error
        except httpx.HTTPError as error:
            raise CommandError(f"{self._url} cannot be reached: {error or type(error).__name__}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise CommandError(f"{self._url} cannot be read: {error}") from error
