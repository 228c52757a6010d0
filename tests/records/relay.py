"""A relay before a server, which cuts connections in the middle of an upload, and then refuses new ones."""

import asyncio
from types import TracebackType

from tests.ports import free_port

CHUNK = 1024


class Relay:
    def __init__(self, server_port: int) -> None:
        """Takes the port of a server on this machine."""
        self.port = free_port()
        self.refused = 0
        """The number of connections that were cut or refused."""
        self._server_port = server_port
        self._bytes_left: int | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.break_after(0)
        self._server.close()
        await self._server.wait_closed()

    def break_after(self, upload_bytes: int) -> None:
        """Lets so many bytes of the clients through, and then breaks."""
        self._bytes_left = upload_bytes
        if not upload_bytes:
            self._cut()

    def mend(self) -> None:
        self._bytes_left = None

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._bytes_left == 0:
            self.refused += 1
            writer.transport.abort()
            return
        to_server, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
        ends = {writer, upstream}
        self._open |= ends
        try:
            await asyncio.gather(self._upload(reader, upstream), self._download(to_server, writer))
        except OSError:
            self.refused += 1
        finally:
            self._open -= ends
            for end in ends:
                end.close()

    async def _upload(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self._bytes_left is not None:
                data = data[: self._bytes_left]
                self._bytes_left -= len(data)
            upstream.write(data)
            await upstream.drain()
            if self._bytes_left == 0:
                self._cut()
        upstream.close()

    async def _download(self, to_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await to_server.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
