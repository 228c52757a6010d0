"""An engine whose answers are scripted byte by byte: what it writes, in which pieces, and how connections end."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum


class End(Enum):
    """How a connection ends before the answer is complete."""

    CLOSED = "closed"
    RESET = "reset"


Step = bytes | asyncio.Event | End
"""Bytes to write at once, an event to wait for, or an end of the connection."""

Script = Callable[[bytes], Iterable[Step]]
"""Returns the steps of the answer to a request, which is given with its headers."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OPEN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
"""Headers of an answer without a length, which ends when the connection is closed."""
LAST = b"0\r\n\r\n"
"""The last chunk of an answer in chunked encoding."""


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def in_chunks(pieces: Iterable[bytes]) -> bytes:
    """Encodes the parts as HTTP chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class RawEngine:
    """An engine that sends the same answer to every request, unless its `script` distinguishes requests."""

    def __init__(self) -> None:
        self.url = ""
        self.steps: Iterable[Step] = ()
        self.script: Script = lambda request: self.steps
        self.asked = 0
        self.running = 0
        """Number of requests whose answers have not ended and whose clients are connected."""
        self.hung_up = 0
        """Number of clients that disconnected before the end of their answers."""
        self.sent = 0
        """Number of bytes of the last answer that were sent."""
        self._moved = 0.0

    def says(self, *steps: Step) -> None:
        self.steps = steps

    @property
    def still_for(self) -> float:
        """Returns the seconds since bytes were last sent."""
        return asyncio.get_running_loop().time() - self._moved

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = b""
        try:
            while request := await _request(reader, begun):
                self.asked += 1
                self.running += 1
                self.sent = 0
                answering = asyncio.ensure_future(self._answer(writer, self.script(request)))
                following = asyncio.ensure_future(_following(reader))
                await asyncio.wait({answering, following}, return_when=asyncio.FIRST_COMPLETED)
                self.running -= 1
                cut = not answering.done() or isinstance(answering.exception(), ConnectionError)
                self.hung_up += cut
                for task in (answering, following):
                    task.cancel()
                end, received = await asyncio.gather(answering, following, return_exceptions=True)
                if cut or end is not None:
                    return
                begun = received if isinstance(received, bytes) else b""
        finally:
            writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter, steps: Iterable[Step]) -> End | None:
        for step in steps:
            match step:
                case asyncio.Event():
                    await step.wait()
                case End.RESET:
                    # Without lingering, close() resets the connection.
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return step
                case End.CLOSED:
                    return step
                case bytes():
                    writer.write(step)
                    await writer.drain()
                    self.sent += len(step)
                    self._moved = asyncio.get_running_loop().time()
                    await asyncio.sleep(0)  # so that the client can read this piece by itself
        return None


async def _request(reader: asyncio.StreamReader, begun: bytes) -> bytes:
    """Reads and returns the request that starts with `begun`; empty at the end of the connection."""
    try:
        head = begun + await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((line for line in lines if line.startswith(b"content-length:")), b":0")
        return head + await reader.readexactly(int(length.partition(b":")[2]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _following(reader: asyncio.StreamReader) -> bytes:
    """Returns the first byte of the next request; empty if the client has disconnected."""
    try:
        return await reader.read(1)
    except ConnectionError:
        return b""


@asynccontextmanager
async def running_raw_engine() -> AsyncIterator[RawEngine]:
    engine = RawEngine()
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A small send buffer, so that `sent` is close to what the client has read.
        writer.transport.set_write_buffer_limits(high=0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        task = asyncio.create_task(engine.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    engine.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield engine
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
