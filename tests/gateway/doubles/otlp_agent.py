"""A real OpenTelemetry agent, Rotel, between the services and a collector that stores the received spans."""

import asyncio
import gzip
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.gateway.doubles.http_server import serving
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.waiting import found
from tests.ports import free_port


@dataclass(frozen=True)
class Arrived:
    """A span that the collector has received; ids are in hexadecimal."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]


class Collector:
    def __init__(self) -> None:
        self.spans: list[Arrived] = []
        self.url = ""

    def named(self, service: str, name: str) -> Arrived:
        (span,) = [span for span in self.spans if (span.service, span.name) == (service, name)]
        return span

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        sent = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        self.spans += _spans(sent)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def _spans(sent: ExportTraceServiceRequest) -> Iterator[Arrived]:
    for of_service in sent.resource_spans:
        service = _attributes(of_service.resource.attributes)["service.name"]
        for scope in of_service.scope_spans:
            for span in scope.spans:
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                yield Arrived(service, span.name, *ids, _attributes(span.attributes))


def _attributes(sent: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in sent}


@dataclass(frozen=True)
class Agent:
    url: str
    collector: Collector


@asynccontextmanager
async def running_agent(folder: Path) -> AsyncIterator[Agent]:
    """Runs the agent and a collector, and yields the agent. Raises ModuleNotFoundError if Rotel is not installed."""
    installed = importlib.util.find_spec("rotel")
    if installed is None or installed.origin is None:
        raise ModuleNotFoundError("rotel is not installed")
    program = Path(installed.origin).with_name("rotel-agent")
    async with _collecting() as collector:
        http, grpc = free_port(), free_port()
        arguments = [
            *("start", "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--batch-timeout", "100ms"),
            *("--otlp-exporter-endpoint", collector.url),
        ]
        agent = Process([str(program), *arguments], {}, folder / "agent.log", "Starting Rotel")
        await agent.start()
        await found(lambda: _listens(http))
        try:
            yield Agent(f"http://127.0.0.1:{http}", collector)
        finally:
            await agent.kill()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with serving(app) as collector.url:
        yield collector
