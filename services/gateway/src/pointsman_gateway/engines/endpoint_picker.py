"""A client of endpoint pickers: external services, each of which chooses an engine of a group for each request.

The protocol is Envoy's external processing (see `picker_messages`), with one gRPC stream for each request; all
streams to one picker share a connection. Every wait has a time limit, even if a picker stops reading or answering.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
from pointsman.envoy import external_processor_pb2 as ext_proc
from pointsman.envoy.external_processor_pb2_grpc import ExternalProcessorStub
from pointsman_servicekit.errors import ResourceExhausted, Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.config.endpoint_picker import EndpointPickerConfig
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.engines.call import to_engine_request
from pointsman_gateway.engines.engine_client import CompletionRequest, out_of_time
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.pick import Pick, address_of
from pointsman_gateway.engines.picker_messages import named_addresses, to_messages

log = logging.getLogger(__name__)

COOLDOWN_SECONDS = 1.0
"""Seconds after a picker's failure in which the gateway does not call the picker."""


class _Connection:
    """The channel to one picker, the number of its open streams, and the end of the picker's cooldown."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.streams = 0
        """The number of open streams."""
        self.away_until = 0.0
        """The end of the picker's cooldown, on the event loop's clock; the gateway does not call the picker before."""


class EndpointPickers:
    """The connections to all endpoint pickers (external services that choose engines), one for each URL. The
    connections stay open when the configuration is reloaded.
    """

    def __init__(self, metrics: EngineMetrics, tls: ClientTls | None = None) -> None:
        """Takes `tls`, the gateway's certificates for pickers whose URL begins with grpcs://."""
        self._metrics = metrics
        self._tls = tls
        self._connections: dict[str, _Connection] = {}
        self._configured: frozenset[str] = frozenset()
        """The URLs in the active configuration."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def pick(
        self,
        config: EndpointPickerConfig,
        targets: Sequence[Target],
        request: CompletionRequest,
        clock: Callable[[], float],
    ) -> Pick | None:
        """Asks the endpoint picker which of `targets`, the engines of one group, should answer the request.

        Returns the picker's choice, whose `end` the caller must call. Returns None if the picker fails and
        `config.failure_mode` is "open". Ignores engines in the picker's answer that are not in `targets`. `clock` is
        the event loop's.

        Raises ResourceExhausted if the picker rejects the request for lack of capacity (status 429), Unavailable if the
        picker answers with another status or fails with failure mode "close", DeadlineExceeded if the request's
        deadline passes, and InvalidArgument if the engines' API cannot express the request.
        """
        engine = targets[0].engine
        group = engine.group or engine.name
        try:
            pick = await self._ask(config, targets, request, clock)
        except ResourceExhausted:
            self._metrics.picked(group, "shed")
            raise
        except _NotPicked as failure:
            self._metrics.picked(group, "failed")
            if config.failure_mode == "close":
                raise Unavailable(
                    f"the endpoint picker {config.url} {failure}",
                    code="picker_unavailable",
                    retry_after=COOLDOWN_SECONDS,
                ) from failure
            log.debug("the endpoint picker %s %s; the gateway chooses the engine itself", config.url, failure)
            return None
        except Unavailable:
            self._metrics.picked(group, "no_endpoint")
            raise
        self._metrics.picked(group, "picked")
        return pick

    async def _ask(
        self,
        config: EndpointPickerConfig,
        targets: Sequence[Target],
        request: CompletionRequest,
        clock: Callable[[], float],
    ) -> Pick:
        connection, now = self._connection(config.url), clock()
        if now < connection.away_until:
            raise _NotPicked("has just failed")
        by_address = {address_of(target): target for target in targets}
        messages = to_messages(to_engine_request(targets[0], request), request.caller, by_address)
        limit = min(now + config.timeout_seconds, request.deadline)
        stub: Any = ExternalProcessorStub(connection.channel)
        stream = stub.Process()
        connection.streams += 1
        pick = None
        try:
            async with asyncio.timeout_at(limit):
                named = await self._exchange(stream, messages)
            chosen = [by_address[address] for address in named if address in by_address]
            if not chosen:
                raise _NotPicked("has named none of the engines that it was offered")
            pick = Pick(chosen, stream, self._start, partial(self._release, config.url, stream))
        except TimeoutError as error:
            if limit == request.deadline:
                raise out_of_time() from error
            connection.away_until = clock() + COOLDOWN_SECONDS
            raise _NotPicked(f"has not answered in {config.timeout_seconds:g} s") from error
        except grpc.RpcError as error:
            connection.away_until = clock() + COOLDOWN_SECONDS
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise _NotPicked(f"has failed: {details}") from error
        finally:
            if pick is None:
                self._release(config.url, stream)
        return pick

    async def _exchange(self, stream: Any, messages: Sequence[ext_proc.ProcessingRequest]) -> Sequence[str]:
        """Sends the messages, and returns the addresses of the first response that names any; empty if none does.

        Reads while it writes: a picker may answer, or refuse, before it has read a long body.
        """
        writing = self._start(_write_all(stream, messages))
        stream.add_done_callback(lambda _: writing.cancel())
        while (response := await stream.read()) is not grpc.aio.EOF:
            if named := named_addresses(response):
                return named
        return ()

    def check(self, configs: Collection[EndpointPickerConfig]) -> None:
        """Checks that each picker in `configs` can be called with this gateway's TLS settings; raises ConfigError if
        not.
        """
        for config in configs:
            if _is_encrypted(config.url) and self._tls is None:
                raise ConfigError(
                    f"models.yaml: endpoint_picker {config.url}: set POINTSMAN_GATEWAY_CLIENT_TLS_CA to the CA of its "
                    "certificate"
                )

    def activate(self, configs: Collection[EndpointPickerConfig]) -> None:
        """Makes `configs` the pickers of the active configuration, and closes the connections to all other pickers.

        Such a connection is closed after its last stream, because requests may still use an earlier configuration.
        """
        self._configured = frozenset(config.url for config in configs)
        for url in list(self._connections):
            self._close_unused(url)

    async def close(self) -> None:
        """Ends all streams and connections."""
        connections = list(self._connections.values())
        self._connections.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in connections:
            await connection.channel.close()

    def _connection(self, url: str) -> _Connection:
        if url not in self._connections:
            address = url.partition("://")[2]
            self._connections[url] = _Connection(open_channel(address, self._tls if _is_encrypted(url) else None))
        return self._connections[url]

    def _release(self, url: str, stream: Any) -> None:
        """Cancels a stream to the picker at `url`, which has no effect if it has ended; to be called once a stream."""
        stream.cancel()
        if url in self._connections:  # not after `close`
            self._connections[url].streams -= 1
            self._close_unused(url)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs `work` in a task, which `close` cancels."""
        task = asyncio.create_task(work, name="endpoint picker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _close_unused(self, url: str) -> None:
        if url not in self._configured and not self._connections[url].streams:
            self._start(self._connections.pop(url).channel.close())


class _NotPicked(Exception):  # no error if the failure mode is open
    """The picker has failed to choose an engine. The message is a predicate, such as "has failed", without the
    subject.
    """


def _is_encrypted(url: str) -> bool:
    return url.startswith("grpcs://")


async def _write_all(stream: Any, messages: Sequence[ext_proc.ProcessingRequest]) -> None:
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader gets the stream's error
        for message in messages:
            await stream.write(message)
