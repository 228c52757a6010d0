"""A client of endpoint pickers: each chooses, for one request, among the engines that have the adapter version.

The protocol is the Gateway API Inference Extension's (proposal 004, version 1): Envoy's external processing, with one
stream for each request. The streams to one picker share a channel.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import msgspec
from google.protobuf.struct_pb2 import Struct
from pointsman.envoy import core_pb2, processing_mode_pb2
from pointsman.envoy import external_processor_pb2 as ext_proc
from pointsman.envoy.external_processor_pb2_grpc import ExternalProcessorStub
from pointsman_servicekit.errors import ResourceExhausted, Unavailable

from pointsman_gateway.config.endpoint_picker import EndpointPickerConfig
from pointsman_gateway.engines.engine_client import CompletionRequest, out_of_time
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.ports import AnswerSource, AnswerStream, ChunkSink

log = logging.getLogger(__name__)

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = "x-gateway-destination-endpoint-subset"
ENDPOINT_NAMESPACE = "envoy.lb"
ENDPOINT_KEY = "x-gateway-destination-endpoint"
SERVED_KEY = "x-gateway-destination-endpoint-served"
FAIRNESS_HEADER = "x-llm-d-inference-fairness-id"
OBJECTIVE_HEADER = "x-llm-d-inference-objective"

BODY_BYTES = 62_000
"""Maximum size of one part of a body: Envoy's implementations stop at 64 KB."""
COOLDOWN_SECONDS = 1.0
"""For this time after a picker has failed, it is not asked."""

_MODES = processing_mode_pb2.ProcessingMode
_PROTOCOL = ext_proc.ProtocolConfiguration(
    request_body_mode=_MODES.FULL_DUPLEX_STREAMED, response_body_mode=_MODES.FULL_DUPLEX_STREAMED
)
_PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}


class Pick:
    """The picker's choice for one request, and the stream on which it hears who has served it."""

    def __init__(self, targets: Sequence[Target], stream: Any) -> None:
        """Takes the chosen engines, the best one first, and the stream to the picker."""
        self.targets = targets
        self._stream = stream
        self._reports: set[asyncio.Task[None]] = set()
        self._is_served = asyncio.Event()
        self._has_ended = False

    def served(self, target: Target) -> None:
        """Tells the picker which engine has begun to answer."""
        self._send(self._report(address_of(target)))

    def end(self) -> None:
        """Tells the picker that the answer has ended, and ends the stream. Idempotent."""
        if not self._has_ended:
            self._has_ended = True
            if self._reports:
                self._send(self._finish())
            else:
                self._stream.cancel()  # no engine has answered

    def _send(self, report: Any) -> None:
        task = asyncio.create_task(report, name="report to endpoint picker")
        self._reports.add(task)

    async def _report(self, address: str) -> None:
        served = Struct()
        served.update({SERVED_KEY: address})
        message = ext_proc.ProcessingRequest(
            response_headers=ext_proc.HttpHeaders(headers=_header_map({":status": "200"})),
            metadata_context=core_pb2.Metadata(filter_metadata={ENDPOINT_NAMESPACE: served}),
        )
        try:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._stream.write(message)
        finally:
            self._is_served.set()

    async def _finish(self) -> None:
        await self._is_served.wait()
        end = ext_proc.ProcessingRequest(response_body=ext_proc.HttpBody(end_of_stream=True))
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(COOLDOWN_SECONDS):
                await self._stream.write(end)
                await self._stream.done_writing()
                while await self._stream.read() is not grpc.aio.EOF:
                    pass
        self._stream.cancel()


class EndpointPickers:
    """The connections to endpoint pickers, one for each address; they outlive configurations."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._away_until: dict[str, float] = {}

    async def pick(
        self,
        config: EndpointPickerConfig,
        targets: Sequence[Target],
        request: CompletionRequest,
        clock: Callable[[], float],
    ) -> Pick | None:
        """Asks the picker which of `targets` shall answer; None if it fails and its failure mode is open.

        Engines that the picker names and that are not in `targets` are ignored. Raises ResourceExhausted if the picker
        sheds the request (429), Unavailable if it has no engine for it (another status) or fails with failure mode
        close, and DeadlineExceeded if the request's deadline passes.
        """
        now = clock()
        if now < self._away_until.get(config.url, 0.0):
            _check_failure_mode(config, "has just failed")
            return None
        stub: Any = ExternalProcessorStub(self._channel(config.url))
        stream = stub.Process()
        picked = None
        try:
            async with asyncio.timeout_at(min(now + config.timeout_seconds, request.deadline)):
                picked = await _ask(stream, targets, request)
        except TimeoutError as error:
            if clock() >= request.deadline:
                raise out_of_time() from error
            self._away_until[config.url] = clock() + COOLDOWN_SECONDS
            _check_failure_mode(config, f"has not answered in {config.timeout_seconds:g} s")
            return None
        except grpc.RpcError as error:
            self._away_until[config.url] = clock() + COOLDOWN_SECONDS
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _check_failure_mode(config, f"has failed: {details}")
            return None
        except asyncio.InvalidStateError:
            _check_failure_mode(config, "has ended the stream")
            return None
        finally:
            if not picked:
                stream.cancel()
        if picked:
            return Pick(picked, stream)
        _check_failure_mode(config, "has named none of the engines that it was offered")
        return None

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _channel(self, url: str) -> grpc.aio.Channel:
        if url not in self._channels:
            self._channels[url] = grpc.aio.insecure_channel(url.removeprefix("grpc://"))
        return self._channels[url]


def address_of(target: Target) -> str:
    """Returns the engine's HOST:PORT, by which pickers know it; an IPv6 address is in brackets."""
    url = urlsplit(target.engine.url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def reporting(answer: AnswerStream, pick: Pick) -> AnswerStream:
    """Returns the answer with a source that tells the picker who answers, and when the answer has ended."""
    served = next((target for target in pick.targets if target.engine.name == answer.engine), None)
    if served is None:  # an engine of another group has answered
        pick.end()
        return answer
    pick.served(served)
    return replace(answer, source=_Reporting(answer.source, pick))


class _Reporting:
    """An answer whose end a picker hears; implements `AnswerSource`."""

    def __init__(self, inner: AnswerSource, pick: Pick) -> None:
        self._inner = inner
        self._pick = pick

    def attach(self, sink: ChunkSink) -> None:
        self._inner.attach(sink)

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def close(self) -> None:
        self._inner.close()
        self._pick.end()


async def _ask(stream: Any, targets: Sequence[Target], request: CompletionRequest) -> Sequence[Target]:
    """Sends headers and body, and returns the chosen engines of `targets`, possibly none."""
    by_address = {address_of(target): target for target in targets}
    hint = Struct()
    hint.update({SUBSET_KEY: list(by_address)})
    metadata = core_pb2.Metadata(filter_metadata={SUBSET_NAMESPACE: hint})
    headers = ext_proc.HttpHeaders(headers=_header_map(_headers(request)))
    await stream.write(
        ext_proc.ProcessingRequest(request_headers=headers, metadata_context=metadata, protocol_config=_PROTOCOL)
    )
    body = _body(targets[0], request)
    for start in range(0, len(body), BODY_BYTES):
        part = ext_proc.HttpBody(body=body[start : start + BODY_BYTES], end_of_stream=start + BODY_BYTES >= len(body))
        await stream.write(ext_proc.ProcessingRequest(request_body=part, metadata_context=metadata))
    while (response := await stream.read()) is not grpc.aio.EOF:
        if response.HasField("immediate_response"):
            raise _refused(response.immediate_response)
        if named := _endpoints(response):
            return [by_address[address] for address in dict.fromkeys(named) if address in by_address]
    return ()


def _headers(request: CompletionRequest) -> dict[str, str]:
    headers = {":method": "POST", ":path": _PATHS[request.operation], "content-type": "application/json"}
    if request.caller.tenant:
        headers[FAIRNESS_HEADER] = request.caller.tenant
    if request.caller.priority:
        headers[OBJECTIVE_HEADER] = f"priority-{request.caller.priority}"
    return headers


def _body(target: Target, request: CompletionRequest) -> bytes:
    """Returns the request in OpenAI's format with what pickers read: the model, the prompt and the answer's limit."""
    body: dict[str, Any] = {"model": target.upstream_model, "stream": True}
    if request.operation == "completion":
        body["prompt"] = "".join(message.content for message in request.messages)
    else:
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    if request.sampling.max_tokens is not None:
        body["max_tokens"] = request.sampling.max_tokens
    return msgspec.json.encode(body)


def _endpoints(response: ext_proc.ProcessingResponse) -> list[str]:
    """Returns the addresses that a response names, by its metadata or its header; empty if it names none."""
    spaces = response.dynamic_metadata.fields
    value = ""
    if ENDPOINT_NAMESPACE in spaces:
        value = spaces[ENDPOINT_NAMESPACE].struct_value.fields[ENDPOINT_KEY].string_value
    for common in (response.request_headers.response, response.request_body.response):
        for option in common.header_mutation.set_headers:
            if not value and option.header.key.lower() == ENDPOINT_KEY:
                value = option.header.raw_value.decode("latin-1") or option.header.value
    return [address.strip() for address in value.split(",") if address.strip()]


def _header_map(headers: dict[str, str]) -> core_pb2.HeaderMap:
    values = [core_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    return core_pb2.HeaderMap(headers=values)


def _refused(response: ext_proc.ImmediateResponse) -> ResourceExhausted | Unavailable:
    if response.status.code == 429:
        return ResourceExhausted(
            "the endpoint picker sheds the request: the engines are saturated", code="picker_shed", retry_after=1.0
        )
    return Unavailable(
        f"the endpoint picker has no engine for the request (status {response.status.code})",
        code="picker_no_endpoint",
        retry_after=1.0,
    )


def _check_failure_mode(config: EndpointPickerConfig, reason: str) -> None:
    """Returns if the gateway may choose itself; raises Unavailable if not."""
    if config.failure_mode == "close":
        raise Unavailable(
            f"the endpoint picker {config.url} {reason}", code="picker_unavailable", retry_after=COOLDOWN_SECONDS
        )
    log.debug("the endpoint picker %s %s; the gateway chooses the engine itself", config.url, reason)
