"""What is said on one connection: as much at once as can be, and no more than its client takes."""

import asyncio
from typing import Protocol

from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.frames import LARGEST_FRAME, LARGEST_WINDOW, Broken, Code

MOST_AT_ONCE = 64 * 1024
"""Bytes that are said in one turn of the event loop before it is known whether the client reads."""
_NO_TABLE = b"\x20"
"""A table of no bytes (RFC 7541, 6.3)."""
NOTHING = memoryview(b"")


class Stream(Protocol):
    """Where data goes."""

    id: int
    window: int
    """Bytes that the client still takes on it."""
    pending: memoryview
    """What it does not take yet."""
    over: bool
    waiting: asyncio.Future[None] | None
    """Set once nothing is pending."""


class Outgoing:
    """Frames on their way out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self.is_stuffed = False
        """More is written than the client reads."""
        self.window = frames.INITIAL_WINDOW
        """Bytes that the client still takes, of all streams together."""
        self.table_is_smaller = False
        """Whether the client's table for our headers has become smaller. We use none; but it must hear that we know."""
        self.answered = False
        """Whether a part of an answer has been said lately; who looks sets it back."""
        self._loop = loop
        self._transport = transport
        self._said: list[bytes] = []
        self._unsent = 0
        """Bytes of these."""
        self._flushing = False

    def say(self, written: bytes) -> None:
        """With all else that is said in this turn of the event loop."""
        self._said.append(written)
        self._unsent += len(written)
        if self._unsent > MOST_AT_ONCE:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_later)

    def headers(self, stream: int, flags: int, block: bytes) -> bytes:
        """As they are written: in several frames, where they are long. They are to be said at once."""
        if self.table_is_smaller:
            self.table_is_smaller = False
            block = _NO_TABLE + block
        if len(block) <= LARGEST_FRAME:
            return frames.frame(frames.HEADERS, flags | frames.END_HEADERS, stream, block)
        pieces = [block[at : at + LARGEST_FRAME] for at in range(0, len(block), LARGEST_FRAME)]
        written = frames.frame(frames.HEADERS, flags, stream, pieces[0])
        for number, piece in enumerate(pieces[1:], start=2):
            last = frames.END_HEADERS if number == len(pieces) else 0
            written += frames.frame(frames.CONTINUATION, last, stream, piece)
        return written

    def send(self, stream: Stream, data: bytes) -> None:
        """As far as the client takes it; the rest is pending."""
        self.answered = True
        size = len(data)
        if stream.pending or self.is_stuffed or size > LARGEST_FRAME or size > stream.window or size > self.window:
            stream.pending = memoryview(bytes(stream.pending) + data)
            self.pump(stream)
        else:
            stream.window -= size
            self.window -= size
            self.say(frames.frame(frames.DATA, 0, stream.id, data))

    def pump(self, stream: Stream) -> bool:
        """Sends of what is pending as much as is taken; whether that was all."""
        pending, at = stream.pending, 0
        while at < len(pending) and not self.is_stuffed:
            size = min(len(pending) - at, stream.window, self.window, LARGEST_FRAME)
            if size <= 0:
                break
            stream.window -= size
            self.window -= size
            self.say(frames.frame(frames.DATA, 0, stream.id, bytes(pending[at : at + size])))
            at += size
            self.answered = True
        stream.pending = pending[at:]
        if stream.pending or self.is_stuffed:
            return False
        if stream.waiting is not None and not stream.waiting.done():
            stream.waiting.set_result(None)
        return True

    def must_wait(self, stream: Stream) -> bool:
        """Whether who says more is to wait first: for the client, or until the other calls have had their turn."""
        return bool(stream.pending) or self.is_stuffed or self._unsent > MOST_AT_ONCE // 2

    async def taken(self, stream: Stream) -> None:
        """Waits until there is no need to any more. One at a time."""
        if self._unsent:
            await asyncio.sleep(0)
        while not stream.over and (stream.pending or self.is_stuffed):
            stream.waiting = self._loop.create_future()
            try:
                await stream.waiting
            finally:
                stream.waiting = None

    def flush(self) -> None:
        """Without waiting for the turn's end."""
        if self._said and not self._transport.is_closing():
            self._transport.write(b"".join(self._said))
        self._said.clear()
        self._unsent = 0

    def _flush_later(self) -> None:
        self._flushing = False
        self.flush()


def widened(window: int, more: int) -> int:
    """Raises Broken."""
    if not more:
        raise Broken(Code.PROTOCOL_ERROR, "a window grows by nothing")
    if window + more > LARGEST_WINDOW:
        raise Broken(Code.FLOW_CONTROL_ERROR, "a window grows too far")
    return window + more
