"""A gRPC client for the lora-server of one engine: watches the engine's state, loads adapters, reports canary
outcomes.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.canary_reports import CanaryReport
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable
from pointsman_servicekit.grpc_client import Interceptors, Token, open_channel, to_message
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.logs import correlation_metadata
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.domain import Alias
from pointsman_gateway.engines.adapter_admin import AdapterAdminClient, to_alias
from pointsman_gateway.engines.catalog import AdapterCatalog
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics

log = logging.getLogger(__name__)

SILENCE_TIMEOUT_SECONDS = 25.0
"""Seconds without a message after which the stream of reports is opened again; the lora-server sends a message at least
every 10 s."""

LOAD_COOLDOWN_SECONDS = 5.0
"""Seconds until a version that could not be loaded may be requested again."""

REPORT_TIMEOUT_SECONDS = 2.0
FACTS_TIMEOUT_SECONDS = 2.0

SLICE = 500
"""Number of entries of a complete report that are read in one go; afterwards other tasks of the event loop get a turn.
"""

_UNREACHABLE = "lora_server_unavailable"


class ReportOutcome(StrEnum):
    """The result of sending a report of canary outcomes: whether it has arrived at the lora-server, and was
    accepted.
    """

    SENT = "sent"
    KEPT = "kept"  # it did not arrive
    REFUSED = "refused"
    LOST = "lost"  # it may have arrived


class LoraServerClient:
    """The client of an engine's lora-server, the service that loads its adapters; implements `LoraServer`."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        channel: grpc.aio.Channel,
        metrics: EngineMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the channel to the lora-server, and the engine's `name` in `engines`; `clock` is monotonic."""
        self._engines = engines
        self._name = name
        self._channel = channel
        self._stub = lora_server_pb2_grpc.LoraServerStub(channel)
        self._metrics = metrics
        self._clock = clock
        self._reported = engines.get(name)
        """The engine as in the lora-server's last report, without later changes, which come from the engine's answers
        and the lora-server's replies."""
        self._replies: dict[str, int] = {}
        """Versions that were loaded for this gateway since the last report, with the sequence number of the reply."""
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._cooldowns: dict[str, float] = {}
        """The end of the cooldown on `clock`, by version."""

    def cooldown_left(self, version: str) -> float:
        return max(0.0, self._cooldowns[version] - self._clock()) if version in self._cooldowns else 0.0

    async def facts(self, version: str) -> Mapping[str, str]:
        try:
            adapter = await self._stub.Get(pb.GetAdapterRequest(version=version), timeout=FACTS_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "lora_server") from error
        return dict(adapter.facts)

    async def ensure(self, version: str, seconds: float) -> None:
        """Loads an adapter version into the engine, and returns once it is loaded.

        Concurrent calls for one version share a load, which may take the `seconds` of the first call. Cancelling a
        call does not stop the load, because others may wait for it. Raises Unavailable if the lora-server rejects the
        load, cannot be reached or takes longer than `seconds`, or if the engine is removed from the configuration
        during the load.
        """
        load = self._loads.get(version)
        if load is None:
            load = asyncio.create_task(self._load(version, seconds), name=f"load {version} on {self._name}")
            self._loads[version] = load
            load.add_done_callback(lambda task: self._on_loaded(version, task))
        try:
            await asyncio.shield(load)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if load.cancelled() and waiter is not None and not waiter.cancelling():
                # The load was cancelled, not the waiter: the engine was removed from the configuration.
                raise Unavailable(
                    f"engine '{self._name}' was removed from the configuration or its group", code=_UNREACHABLE
                ) from None
            raise

    async def _load(self, version: str, seconds: float) -> None:
        try:
            state = await self._stub.EnsureLoaded(
                pb.EnsureLoadedRequest(version=version, changes=True), timeout=seconds, metadata=correlation_metadata()
            )
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, "lora_server")
            self._metrics.loaded(self._name, _load_outcome(failure))
            self._cooldowns = {v: until for v, until in self._cooldowns.items() if until > self._clock()}
            self._cooldowns[version] = self._clock() + LOAD_COOLDOWN_SECONDS
            log.warning("adapter %s is not loaded on engine %s: %s", version, self._name, failure.message)
            message = f"engine '{self._name}': {failure.message}"
            raise Unavailable(message, code=failure.code, retry_after=LOAD_COOLDOWN_SECONDS) from error
        self._metrics.loaded(self._name, "loaded")
        self._cooldowns.pop(version, None)
        if state.sequence > self._reported.sequence:
            self._replies[version] = state.sequence
        self._engines.update(self._engines.get(self._name).with_adapter(version))

    def _on_loaded(self, version: str, task: "asyncio.Task[None]") -> None:
        del self._loads[version]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: there may be no waiter left

    async def report(self, reports: Sequence[CanaryReport]) -> ReportOutcome:
        if self._channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            return ReportOutcome.KEPT
        try:
            await self._stub.ReportCanaryMetrics(
                pb.ReportCanaryMetricsRequest(outcomes=map(_to_message, reports)), timeout=REPORT_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, "lora_server")
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ReportOutcome.REFUSED
            if failure.code in (_UNREACHABLE, "deadline_exceeded"):
                return ReportOutcome.LOST
            return ReportOutcome.KEPT if isinstance(failure, Unavailable) else ReportOutcome.REFUSED
        return ReportOutcome.SENT

    async def watch(self) -> None:
        """Reads the lora-server's stream of reports, and stores each in the engine's state, until cancelled.

        If the stream ends, fails, or is silent for `SILENCE_TIMEOUT_SECONDS`, opens it again after half a second.
        """
        logged = ""
        while True:
            try:
                await self._read_states()
                problem = "its lora-server ended the stream"
            except grpc.aio.AioRpcError as error:
                problem = f"its lora-server cannot be reached ({error.code().name})"
            except TimeoutError:
                problem = "its lora-server has sent nothing for too long"
            # The engine keeps its last state, and serves what is resident.
            if problem != logged:
                log.warning("engine %s: %s", self._name, problem)
                logged = problem
            await asyncio.sleep(0.5)

    async def _read_states(self) -> None:
        stream, first = self._stub.Watch(pb.WatchRequest(changes=True)), True
        try:
            while True:
                async with asyncio.timeout(SILENCE_TIMEOUT_SECONDS):
                    state = await stream.read()
                if state is grpc.aio.EOF:
                    return
                await self._store(state, first)
                first = False
        finally:
            stream.cancel()

    async def _store(self, state: pb.EngineState, first: bool) -> None:
        """Stores a report; `first` is set for the first one of a stream. Versions in `_replies` with a higher sequence
        number stay resident.
        """
        if first:
            self._replies = {}
        model, catalog = self._reported.model, self._reported.catalog
        if state.is_change:
            catalog = _changed(catalog, state)
        else:
            catalog = await _read_catalog(state, self._engines.latest_catalog(model))
        catalog = self._engines.shared_catalog(model, catalog)
        if not state.is_change:
            await asyncio.sleep(0)
        self._reported = engine = _to_engine(self._reported, state, catalog)
        self._replies = {v: number for v, number in self._replies.items() if number > state.sequence}
        for version in self._replies:
            engine = engine.with_adapter(version)
        self._engines.update(engine)

    async def close(self) -> None:
        """Cancels all adapter loads in progress, and waits until they have ended."""
        loads = list(self._loads.values())
        for task in loads:
            task.cancel()
        if loads:
            await asyncio.wait(loads)


async def watch_engine(
    engines: Engines,
    name: str,
    *,
    address: str,
    metrics: EngineMetrics,
    tls: ClientTls | None = None,
    interceptors: Interceptors = (),
    token: Token | None = None,
) -> None:
    """Updates the state of the engine `name` in `engines` by the reports of its lora-server, until cancelled.

    `address` is the lora-server's HOST:PORT. While this runs, the engine's state holds clients of the lora-server, in
    `lora_server` and `adapter_admin`; otherwise these are None.
    """
    async with open_channel(address, tls, interceptors, token) as channel:
        server = LoraServerClient(engines, name, channel, metrics)
        state = engines.state(name)
        state.lora_server, state.adapter_admin = server, AdapterAdminClient(channel)
        try:
            await server.watch()
        finally:
            state.lora_server = state.adapter_admin = None
            await server.close()


def _load_outcome(error: PointsmanError) -> str:
    if isinstance(error, DeadlineExceeded):
        return "late"
    return "away" if error.code == _UNREACHABLE else "refused"


def _changed(before: AdapterCatalog, state: pb.EngineState) -> AdapterCatalog:
    """Returns the catalog after a report that holds only changes."""
    reported = [*state.resident, *state.loadable]
    return before.after(reported, state.removed, map(to_alias, state.aliases), state.training_seconds)


async def _read_catalog(state: pb.EngineState, latest: AdapterCatalog) -> AdapterCatalog:
    """Returns the catalog of a complete report; gives other tasks a turn after every `SLICE` entries.

    Reuses the parts of `latest`, the catalog of other engines of the model, that are equal.
    """
    versions, aliases, seconds = set[str](), dict[str, Alias](), dict[str, float]()
    for slice_ in _slices(state.resident, state.loadable):
        versions.update(slice_)
        await asyncio.sleep(0)
    same = len(state.aliases) == len(latest.aliases)
    for slice_ in _slices(state.aliases):
        for alias in map(to_alias, slice_):
            known = latest.aliases.get(alias.alias)
            is_known = known is not None and known == alias
            aliases[alias.alias] = alias if known is None or not is_known else known
            same = same and is_known
        await asyncio.sleep(0)
    for number, (version, known_seconds) in enumerate(state.training_seconds.items(), 1):
        seconds[version] = known_seconds
        if number % SLICE == 0:
            await asyncio.sleep(0)
    if same and versions == latest.versions and seconds == latest.training_seconds:
        return latest
    await asyncio.sleep(0)
    return AdapterCatalog(frozenset(versions), latest.aliases if same else aliases, seconds)


def _slices(*rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (row[begin : begin + SLICE] for row in rows for begin in range(0, len(row), SLICE))


def _to_engine(before: Engine, state: pb.EngineState, catalog: AdapterCatalog) -> Engine:
    ready, detail = state.status == pb.ENGINE_STATUS_READY, state.detail
    if ready and state.base_model != before.upstream_model:
        ready, aliases = False, before.catalog.aliases if state.is_change else {}
        catalog = AdapterCatalog(catalog.versions, aliases, catalog.training_seconds)
        detail = f"it serves '{state.base_model}', not '{before.upstream_model}' as models.yaml says"
    elif ready and before.endpoint and _is_local(state.url) and not _is_local(f"//{before.endpoint}"):
        ready = False
        detail = f"its lora-server reports the local address {state.url}: set POINTSMAN_LORA_ENGINE_URL"
    resident = frozenset(state.resident)
    if state.is_change:
        changed = {*resident, *state.loadable, *state.removed}
        resident = _replaced(before.resident, changed, resident)
    return replace(
        before,
        url=state.url.rstrip("/"),
        ready=ready,
        resident=resident,
        catalog=catalog,
        detail=detail,
        sequence=state.sequence,
    )


def _replaced(names: frozenset[str], changed: Set[str], added: Set[str]) -> frozenset[str]:
    """Returns `names` without `changed` and with `added`; the same object if there is nothing to add or to remove."""
    if not added and names.isdisjoint(changed):
        return names
    return (names - changed).union(added)


def _is_local(url: str) -> bool:
    """Returns whether the URL's host is "localhost", or a loopback or unspecified address: unusable elsewhere."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _to_message(report: CanaryReport) -> pb.Outcomes:
    return to_message(pb.Outcomes, report.counts, alias=report.alias, revision=report.revision, version=report.version)
