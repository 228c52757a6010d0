"""An endpoint picker that follows the Gateway API Inference Extension's protocol (proposal 004, version 1)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from pointsman.envoy import core_pb2, http_status_pb2
from pointsman.envoy import external_processor_pb2 as ext_proc
from pointsman.envoy.external_processor_pb2_grpc import (
    ExternalProcessorServicer,
    add_ExternalProcessorServicer_to_server,
)
from pointsman_servicekit.tls import ServerTls

SUBSET = ("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset")
ENDPOINT = "x-gateway-destination-endpoint"


Choice = Callable[[Sequence[str], Sequence[str]], Sequence[str]]


def _offered(pool: Sequence[str], subset: Sequence[str]) -> Sequence[str]:
    return [address for address in pool if address in subset]


@dataclass
class Asked:
    """One request as the picker has seen it."""

    headers: dict[str, str]
    subset: list[str]
    body: dict[str, Any] = field(default_factory=dict)
    served: str = ""
    has_ended: bool = False


class PickerDouble(ExternalProcessorServicer):
    """Names the endpoints of the pool that `chooses` returns: those of the subset hint, in the pool's order."""

    def __init__(self, pool: Sequence[str]) -> None:
        self.pool = list(pool)
        self.asked: list[Asked] = []
        self.chooses: Choice = _offered
        """Returns the addresses to name, of the pool and the subset hint; 503 if there are none."""
        self.is_saturated = False
        self.is_silent = False
        self.answers_headers = False
        """Whether it answers the headers, and then reads no more."""
        self.streams = 0
        """The number of open streams."""
        self.peers: set[str] = set()
        """The addresses of all connections that had a stream."""
        self.uses_metadata = True
        self.uses_header = True

    async def Process(self, request_iterator: Any, context: Any) -> AsyncIterator[ext_proc.ProcessingResponse]:
        self.streams += 1
        self.peers.add(context.peer())
        try:
            async for response in self._process(request_iterator):
                yield response
        finally:
            self.streams -= 1

    async def _process(self, messages: Any) -> AsyncIterator[ext_proc.ProcessingResponse]:
        asked, body = Asked({}, []), b""
        async for message in messages:
            kind = message.WhichOneof("request")
            metadata = {key: MessageToDict(value) for key, value in message.metadata_context.filter_metadata.items()}
            if kind == "request_headers":
                asked.headers = {one.key: one.raw_value.decode() for one in message.request_headers.headers.headers}
                asked.subset = metadata[SUBSET[0]][SUBSET[1]]
                if self.answers_headers:
                    self.asked.append(asked)
                    yield self._answer(asked)
                    await asyncio.sleep(3600)
            elif kind == "request_body":
                body += message.request_body.body
                if message.request_body.end_of_stream:
                    asked.body = json.loads(body)
                    self.asked.append(asked)
                    if self.is_silent:
                        await asyncio.sleep(3600)
                    yield self._answer(asked)
            elif kind == "response_headers":
                asked.served = metadata["envoy.lb"]["x-gateway-destination-endpoint-served"]
            elif kind == "response_body":
                asked.has_ended = message.response_body.end_of_stream

    def _answer(self, asked: Asked) -> ext_proc.ProcessingResponse:
        if self.is_saturated:
            return _immediate(429)
        picked = self.chooses(self.pool, asked.subset)
        if not picked:
            return _immediate(503)
        answer = ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse())
        if self.uses_header:
            option = core_pb2.HeaderValueOption(
                header=core_pb2.HeaderValue(key=ENDPOINT, raw_value=",".join(picked).encode())
            )
            answer.request_headers.response.header_mutation.set_headers.append(option)
        if self.uses_metadata:
            named = Struct()
            named.update({"envoy.lb": {ENDPOINT: ",".join(picked)}})
            answer.dynamic_metadata.CopyFrom(named)
        return answer


def _immediate(status: int) -> ext_proc.ProcessingResponse:
    code = http_status_pb2.HttpStatus()
    code.code = status  # type: ignore[assignment]  # the enumeration is open
    return ext_proc.ProcessingResponse(immediate_response=ext_proc.ImmediateResponse(status=code))


@asynccontextmanager
async def serving(picker: PickerDouble, tls: ServerTls | None = None) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """Serves the picker on a free port; yields its URL and the server."""
    server = grpc.aio.server()
    add_ExternalProcessorServicer_to_server(picker, server)
    if tls:
        key, certificate, _ = tls.pem()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpc{'s' if tls else ''}://127.0.0.1:{port}", server
    finally:
        await server.stop(None)


def connections_to(url: str) -> int:
    """Returns the number of open TCP connections to the port of a picker."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    tables = [Path(f"/proc/self/net/{table}").read_text() for table in ("tcp", "tcp6")]  # gRPC maps IPv4 to IPv6
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return sum(remote.endswith(f":{port}") and state == "01" for _, _, remote, state, *_ in rows)
