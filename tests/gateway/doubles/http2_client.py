"""A client that sends arbitrary HTTP/2 frames."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x01
END_HEADERS = 0x04

FRAME_HEADER_BYTES = 9
_frame_header = Struct(">HBBBL")
"""Layout of a frame's header: length / 256, length % 256, type, flags, stream (RFC 9113, section 4.1)."""


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _frame_header.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings_frame(values: dict[Any, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([Struct(">HL").pack(name, value) for name, value in values.items()]))


def reset_frame(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def with_prefix(message: bytes, compressed: bool = False) -> bytes:
    """Returns the message with gRPC's length prefix, as sent in DATA frames."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class Http2Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next = -1
        self.seen: list[Frame] = []

    def say(self, *written: bytes) -> None:
        self._writer.write(b"".join(written))

    def greet(self, settings: dict[Any, int] | None = None) -> None:
        self.say(PREFACE, settings_frame(settings or {}))

    def block(self, path: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
        return bytes(
            self._encoder.encode(
                [
                    (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here"),
                    ("te", "trailers"), ("content-type", "application/grpc"), *more,
                ]
            )
        )  # fmt: skip

    def stream(self) -> int:
        """Returns the next unused stream id."""
        self._next += 2
        return self._next

    def call(self, path: str, message: bytes | None, more: Iterable[tuple[str, str]] = ()) -> int:
        """Starts a call and returns its stream; with a message, the request is complete."""
        stream = self.stream()
        self.say(frame(HEADERS, END_HEADERS, stream, self.block(path, more)))
        if message is not None:
            self.say(frame(DATA, END_STREAM, stream, message))
        return stream

    async def next(self, *kinds: int, stream: int | None = None) -> Frame:
        """Returns the next frame of one of these types. Raises IncompleteReadError at the end of the connection."""
        async with asyncio.timeout(10):
            while True:
                head = await self._reader.readexactly(FRAME_HEADER_BYTES)
                high, low, kind, flags, of = _frame_header.unpack(head)
                payload = await self._reader.readexactly(high << 8 | low)
                found = Frame(kind, flags, of, payload)
                self.seen.append(found)
                if kind in kinds and stream in (None, of):
                    return found

    async def ended(self) -> list[Frame]:
        """Reads until the connection is closed, and returns all frames."""
        before = len(self.seen)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self.next()
        return self.seen[before:]

    async def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """Returns data and trailers of the only pending call. Raises ConnectionResetError."""
        data = b""
        received: dict[str, str] = {}
        while True:
            frame = await self.next(DATA, HEADERS, RST_STREAM, stream=stream)
            if frame.kind == RST_STREAM:
                raise ConnectionResetError(f"stream {stream} is reset by {int.from_bytes(frame.payload, 'big')}")
            if frame.kind == DATA:
                data += frame.payload
            else:
                received |= self.headers(frame)
            if frame.flags & END_STREAM:
                return data, received

    def headers(self, frame: Frame) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(frame.payload)}

    async def flush(self) -> None:
        """Waits until the kernel has accepted all bytes."""
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def speaking(
    address: str, settings: dict[Any, int] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Http2Client]:
    """Opens a connection and exchanges the HTTP/2 preface."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    client = Http2Client(reader, writer)
    client.greet(settings)
    try:
        yield client
    finally:
        await client.close()
