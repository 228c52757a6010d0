"""An OpenTelemetry collector that parses the log records that it gets by OTLP over HTTP, and keeps them."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.ports import free_port


class LogCollector:
    """Survives a stop with what it has received."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.services: set[str] = set()
        self.requests = 0
        self.status = 200
        self.body = ExportLogsServiceResponse().SerializeToString()
        self.headers: dict[str, str] = {"Content-Type": "application/x-protobuf"}
        self.max_records: int | None = None
        """Larger requests are refused as too large."""
        self.poison = ""
        """A request with a record of this id is refused as bad."""
        self.refusal = Status(message="no field\nlike this").SerializeToString()
        """The answer to a request that is refused as bad or too large."""
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def ids(self) -> list[str]:
        return [str(attributes_of(record)["log.record.uid"]) for record in self.records]

    def start(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                status = collector.take(self.path, content)
                body = collector.refusal if status in (400, 413) else collector.body
                self.send_response(status)
                for name, value in collector.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(ConnectionError):  # the exporter does not read all of a long answer
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Does nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, path: str, content: bytes) -> int:
        """Returns the status of the answer to a request; keeps the records if it is 200."""
        self.requests += 1
        if path != "/v1/logs":
            return 404
        if self.status != 200:
            return self.status
        sent = ExportLogsServiceRequest.FromString(content)
        found = [record for one in sent.resource_logs for scope in one.scope_logs for record in scope.log_records]
        if self.max_records is not None and len(found) > self.max_records:
            return 413
        if self.poison and any(attributes_of(record)["log.record.uid"] == self.poison for record in found):
            return 400
        self.services |= {str(_values(one.resource.attributes)["service.name"]) for one in sent.resource_logs}
        self.records += found
        return 200


def attributes_of(record: LogRecord) -> dict[str, Any]:
    return _values(record.attributes)


def _values(sent: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in sent}


@contextmanager
def collecting() -> Iterator[LogCollector]:
    collector = LogCollector()
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()
