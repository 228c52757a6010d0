"""The lora-server beside one engine, over gRPC: its news are heard, and it is asked to load and told of outcomes."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from urllib.parse import urlsplit

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable
from pointsman_servicekit.grpc_client import Interceptors, Token, open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.logs import correlation_metadata
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.domain import CanaryMetrics
from pointsman_gateway.engines.adapter_admin import AdapterDesk, to_alias
from pointsman_gateway.engines.engines import Engine, Engines
from pointsman_gateway.engines.metrics import EngineMetrics

log = logging.getLogger(__name__)

SILENCE = 25.0
"""Seconds without a word from a lora-server (it promises one every 10) until its stream is opened anew."""

REST = 5.0
"""Seconds until a version is asked for again that could not be loaded."""

REPORT_SECONDS = 2.0
FACTS_SECONDS = 2.0

_UNREACHABLE = "lora_server_unavailable"


class Told(StrEnum):
    """What became of a report."""

    SENT = "sent"
    KEPT = "kept"  # it has not arrived
    REFUSED = "refused"
    LOST = "lost"  # it may have arrived, or not


class LoraServer:
    """Implements the engines' `LoraServer`. One call at a time for each version, however many wait for it."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        channel: grpc.aio.Channel,
        metrics: EngineMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`engines` hold the cell of the engine `name`, which this one keeps true."""
        self._engines = engines
        self._name = name
        self._channel = channel
        self._stub = lora_server_pb2_grpc.LoraServerStub(channel)
        self._metrics = metrics
        self._clock = clock
        self._ensuring: dict[str, asyncio.Task[None]] = {}
        self._rests: dict[str, float] = {}
        """Until when, by version."""

    def rest_left(self, version: str) -> float:
        return max(0.0, self._rests[version] - self._clock()) if version in self._rests else 0.0

    async def facts(self, version: str) -> Mapping[str, str]:
        try:
            told = await self._stub.Get(pb.GetAdapterRequest(version=version), timeout=FACTS_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "lora_server") from error
        return dict(told.facts)

    async def ensure(self, version: str, seconds: float) -> None:
        """Whoever waits may go; the load goes on for the others."""
        ensuring = self._ensuring.get(version)
        if ensuring is None:
            ensuring = asyncio.create_task(self._ensure(version, seconds), name=f"load {version} on {self._name}")
            self._ensuring[version] = ensuring
            ensuring.add_done_callback(lambda task: self._ensured(version, task))
        try:
            await asyncio.shield(ensuring)
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if ensuring.cancelled() and waiting is not None and not waiting.cancelling():
                # The engine has left the configuration; nobody has hung up.
                raise Unavailable(f"engine '{self._name}' is followed no more", code=_UNREACHABLE) from None
            raise

    async def _ensure(self, version: str, seconds: float) -> None:
        try:
            state = await self._stub.EnsureLoaded(
                pb.EnsureLoadedRequest(version=version), timeout=seconds, metadata=correlation_metadata()
            )
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error, "lora_server")
            self._metrics.loaded(self._name, _outcome(told))
            self._rests = {v: until for v, until in self._rests.items() if until > self._clock()}
            self._rests[version] = self._clock() + REST
            log.warning("adapter %s is not loaded on engine %s: %s", version, self._name, told.message)
            raise Unavailable(f"engine '{self._name}': {told.message}", code=told.code, retry_after=REST) from error
        self._metrics.loaded(self._name, "loaded")
        self._rests.pop(version, None)
        before = self._engines.get(self._name)
        # An answer that is older than the last word, or of a server that was started again since, tells only this much.
        self._engines.put(_engine(before, state) if state.sequence >= before.sequence else before.holding(version))

    def _ensured(self, version: str, task: "asyncio.Task[None]") -> None:
        del self._ensuring[version]
        if not task.cancelled():
            task.exception()  # those who waited have it; there may be none left

    async def report(self, outcomes: Sequence[CanaryMetrics]) -> Told:
        if self._channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            return Told.KEPT
        try:
            await self._stub.ReportCanaryMetrics(
                pb.ReportCanaryMetricsRequest(outcomes=map(_outcomes, outcomes)), timeout=REPORT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error, "lora_server")
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return Told.REFUSED
            if told.code in (_UNREACHABLE, "deadline_exceeded"):
                return Told.LOST
            return Told.KEPT if isinstance(told, Unavailable) else Told.REFUSED
        return Told.SENT

    async def follow(self) -> None:
        """Keeps the cell true to what the lora-server says, until cancelled."""
        told = ""
        while True:
            try:
                await self._read_states()
                why = "its lora-server ended the stream"
            except grpc.aio.AioRpcError as error:
                why = f"its lora-server cannot be reached ({error.code().name})"
            except TimeoutError:
                why = "its lora-server fell silent"
            # The engine goes on with what is resident: only its stream of news is gone.
            if why != told:
                log.warning("engine %s: %s", self._name, why)
                told = why
            await asyncio.sleep(0.5)

    async def _read_states(self) -> None:
        stream, first = self._stub.Watch(pb.WatchRequest()), True
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    state = await stream.read()
                if state is grpc.aio.EOF:
                    return
                before = self._engines.get(self._name)
                # Only a stream's first word may come from a server that counts anew; a later one that is lower is older
                # than what `EnsureLoaded` has answered meanwhile.
                if first or state.sequence >= before.sequence:
                    self._engines.put(_engine(before, state))
                first = False
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Gives up what is being loaded."""
        ensuring = list(self._ensuring.values())
        for task in ensuring:
            task.cancel()
        if ensuring:
            await asyncio.wait(ensuring)


async def follow(
    engines: Engines,
    name: str,
    address: str,
    metrics: EngineMetrics,
    tls: ClientTls | None = None,
    interceptors: Interceptors = (),
    token: Token | None = None,
) -> None:
    """Keeps `engines` true to what the lora-server at `address` says of engine `name`, until cancelled.

    As long as it runs, the engine's cell has its lora-server, and the desk at which its adapters are moved.
    """
    async with open_channel(address, tls, interceptors, token) as channel:
        server = LoraServer(engines, name, channel, metrics)
        cell = engines.cell(name)
        cell.lora_server, cell.desk = server, AdapterDesk(channel)
        try:
            await server.follow()
        finally:
            cell.lora_server = cell.desk = None
            await server.close()


def _outcome(error: PointsmanError) -> str:
    if isinstance(error, DeadlineExceeded):
        return "late"
    return "away" if error.code == _UNREACHABLE else "refused"


def _engine(before: Engine, state: pb.EngineState) -> Engine:
    ready, detail = state.status == pb.ENGINE_STATUS_READY, state.detail
    aliases: Sequence[pb.Alias] = state.aliases
    if ready and state.base_model != before.model:
        ready, aliases = False, ()
        detail = f"it serves '{state.base_model}', not '{before.model}' as models.yaml says"
    elif ready and before.place and _is_here(state.url) and not _is_here(f"//{before.place}"):
        ready = False
        detail = f"its lora-server tells {state.url} of it, which is no place for others: set POINTSMAN_LORA_ENGINE_URL"
    return replace(
        before,
        url=state.url.rstrip("/"),
        ready=ready,
        resident=frozenset(state.resident),
        loadable=frozenset(state.loadable),
        aliases={alias.alias: to_alias(alias) for alias in aliases},
        detail=detail,
        sequence=state.sequence,
        training_seconds=dict(state.training_seconds),
    )


def _is_here(url: str) -> bool:
    """Whether it leads to whichever machine it is used on."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _outcomes(outcomes: CanaryMetrics) -> pb.Outcomes:
    return pb.Outcomes(
        alias=outcomes.alias,
        revision=outcomes.revision,
        version=outcomes.version,
        requests=outcomes.requests,
        errors=outcomes.errors,
        invalid=outcomes.invalid,
        milliseconds=outcomes.latency_buckets,
    )
