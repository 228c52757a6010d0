"""The calls of one connection, each on a stream of its own (RFC 9113, section 5)."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW, Call
from pointsman_servicekit.grpc_wire.frames import Broken, Code
from pointsman_servicekit.grpc_wire.heads import BEGINNING, NOT_GRPC, BadHead, Head, HeadReader, status_block
from pointsman_servicekit.grpc_wire.manners import Manners
from pointsman_servicekit.grpc_wire.outgoing import Outgoing, widened

log = logging.getLogger(__name__)

CONNECTION_WINDOW = 4 * 1024 * 1024
"""Bytes that a client may send on all streams together beyond what has been read off the connection."""
MOST_HELD = 8
"""So many times the largest message may wait on one connection, of all its calls."""
LEAST_HELD = 4 * WINDOW
"""Bytes that may, however small the largest message is."""

Find = Callable[[str], "grpc.RpcMethodHandler[Any, Any] | None"]


class Streams:
    """By their numbers."""

    def __init__(
        self, out: Outgoing, peer: str, limits: ServerLimits, manners: Manners, find: Find, rest: Callable[[], None]
    ) -> None:
        """`find` knows the handler of a path; `rest` is told when the last call has ended."""
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.out = out
        self.peer = peer
        self.limits = limits
        self.calls: dict[int, Call] = {}
        self.at_work = 0
        """Servicers that are busy, among them some whose client wants no more."""
        self.held = 0
        """Bytes of requests that have come and were not read."""
        self.most_held = max(MOST_HELD * limits.message_bytes, LEAST_HELD)
        self.first_window = frames.INITIAL_WINDOW
        """Bytes that the client takes on a stream to begin with."""
        self.latest = 0
        """The latest one that was not passed over."""
        self.closed = False
        """No further ones are begun."""
        self._manners = manners
        self._find = find
        self._rest = rest
        self._heads = HeadReader(limits.metadata_bytes)
        self._last = 0
        """The latest one that a client has begun."""
        self._room = CONNECTION_WINDOW
        """Bytes that the client may still send, on all streams together."""
        self._widened = False
        """Whether more may be sent, since something was pending last."""

    # -- what the client says

    def headers(self, flags: int, stream: int, block: bytes) -> None:
        """Of a call that begins, or ends with them. Raises Broken."""
        if stream % 2 == 0:
            raise Broken(Code.PROTOCOL_ERROR, f"a client begins no stream {stream}")
        head: Head | None = None
        try:
            head = self._heads.read(block)
        except BadHead as bad:
            log.debug("%s asks for what is no call: %s", self.peer, bad)
        call = self.calls.get(stream)
        if call is not None:
            if call.half_closed:
                self._drop(call, Code.STREAM_CLOSED)
                return
            if not flags & frames.END_STREAM:
                raise Broken(Code.PROTOCOL_ERROR, f"stream {stream} begins twice")
            _half_close(call)  # a client has nothing to say in trailers
        elif stream > self._last:
            self._last = stream
            if not self.closed:  # else the client has heard which calls were the last, and asks elsewhere
                self.latest = stream
                self._begin(flags, stream, head)
        # else it belongs to a call that has ended here, while this was on its way

    def data(self, flags: int, stream: int, payload: bytes) -> None:
        """Raises Broken."""
        size = len(payload)
        self._room -= size
        if self._room < 0:
            raise Broken(Code.FLOW_CONTROL_ERROR, "more came than the connection has room for")
        if self._room <= CONNECTION_WINDOW // 2:
            self.out.say(frames.window_update(0, CONNECTION_WINDOW - self._room))
            self._room = CONNECTION_WINDOW
        call = self.calls.get(stream)
        if call is None:
            if stream % 2 == 0:
                raise Broken(Code.PROTOCOL_ERROR, f"a client begins no stream {stream}")
            self._must_have_begun(stream)
            return  # it has ended here, while this was on its way
        if call.half_closed:
            self._drop(call, Code.STREAM_CLOSED)
            return
        call.room -= size
        if call.room < 0:
            self._drop(call, Code.FLOW_CONTROL_ERROR)
            return
        data = frames.unpadded(flags & frames.PADDED, payload) if flags & frames.PADDED else payload
        if data:
            self._manners.brought_something()
        elif not flags & frames.END_STREAM:
            self._manners.brought_nothing()
        if payload:
            call.came(data)
        if flags & frames.END_STREAM:
            _half_close(call)

    def window(self, stream: int, more: int) -> None:
        """It takes more. Raises Broken."""
        if stream == 0:
            self._widened |= self.out.window <= 0
            self.out.window = widened(self.out.window, more)
            return
        call = self.calls.get(stream)
        if call is None:
            self._must_have_begun(stream)
            return
        try:
            call.window = widened(call.window, more)
        except Broken as broken:
            self._drop(call, broken.code)
        else:
            self._pump(call)

    def first_windows(self, size: int) -> None:
        """So many bytes are taken on each stream to begin with, also on those that have begun."""
        for call in self.calls.values():
            call.window += size - self.first_window
        self.first_window = size
        self._widened = True

    def reset(self, stream: int) -> None:
        """It wants no more. Raises Broken."""
        self._must_have_begun(stream)
        call = self.calls.pop(stream, None)
        if call is not None:
            call.cut()
            self._manners.took_back()
            self._ended()

    def pump_widened(self) -> None:
        """Once all has been heard that came at once: each word of it may have let a little more be sent."""
        if self._widened:
            self._widened = False
            self.pump()

    def pump(self) -> None:
        """Sends of what is pending as much as is taken."""
        for call in list(self.calls.values()):
            if call.pending or call.trailers is not None or call.waiting is not None:
                self._pump(call)

    # -- what ends them all

    def cut(self) -> None:
        """The client is gone, or is to go."""
        for call in self.calls.values():
            call.cut()
        self.calls.clear()
        self.closed = True
        self._rest = _nobody_waits  # whoever waits for it holds us, too

    def refuse(self, why: str) -> None:
        """The server stops."""
        for call in list(self.calls.values()):
            call.refuse(grpc.StatusCode.UNAVAILABLE, why)

    # -- what a call asks

    def finish(self, call: Call, beginning: bytes, data: bytes, trailers: bytes) -> None:
        """Says the rest: mostly all of an answer, in one piece."""
        if call.id not in self.calls:
            return
        out = self.out
        if beginning:
            out.say(out.headers(call.id, 0, beginning))
        if data:
            out.send(call, data)
        out.answered = True
        if call.pending:
            call.trailers = trailers
        else:
            self.close(call, trailers)

    def close(self, call: Call, trailers: bytes) -> None:
        """The last that is said on its stream."""
        self.out.say(self.out.headers(call.id, frames.END_STREAM, trailers))
        if not call.half_closed:
            self.out.say(frames.reset(call.id, Code.NO_ERROR))
        del self.calls[call.id]
        self._ended()

    def make_room(self, call: Call) -> None:
        """It has read what came."""
        if call.room <= WINDOW // 2:
            self.out.say(frames.window_update(call.id, WINDOW - call.room))
            call.room = WINDOW

    # -- how one begins and ends

    def _begin(self, flags: int, stream: int, head: Head | None) -> None:
        self._manners.brought_something()
        if max(len(self.calls), self.at_work) >= self.limits.streams:
            self.out.say(frames.reset(stream, Code.REFUSED_STREAM))
            return
        found = self._found(head)
        if isinstance(found, bytes):
            self.out.say(self.out.headers(stream, frames.END_STREAM, found))
            if not flags & frames.END_STREAM:
                self.out.say(frames.reset(stream, Code.NO_ERROR))
            return
        call = self.calls[stream] = Call(self, stream, *found)
        call.opened()
        if flags & frames.END_STREAM:
            _half_close(call)

    def _found(self, head: Head | None) -> tuple[Head, Any] | bytes:
        """The call, and what serves it; else all that is said to it."""
        if head is None:
            return NOT_GRPC
        handler = self._find(head.path)
        if handler is None:
            return _refusal(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {head.path}")
        most = self.limits.metadata_bytes
        if head.size > most:
            told = f"the metadata has {head.size} bytes; at most {most}"
            return _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
        return _refusal(grpc.StatusCode.INTERNAL, head.fault) if head.fault else (head, handler)

    def _must_have_begun(self, stream: int) -> None:
        if stream > self._last or stream == 0:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {stream} has not begun")

    def _pump(self, call: Call) -> None:
        if self.out.pump(call) and call.trailers is not None:
            call.all_taken()
            self.close(call, call.trailers)

    def _drop(self, call: Call, code: Code) -> None:
        """Its client does not keep to the rules."""
        self._manners.took_back()
        del self.calls[call.id]
        call.cut()
        self.out.say(frames.reset(call.id, code))
        self._ended()

    def _ended(self) -> None:
        if not self.calls:
            self._rest()


def _nobody_waits() -> None:
    """For the last call to end."""


def _half_close(call: Call) -> None:
    if not call.half_closed:
        call.half_closed = True
        if not call.over:
            call.ended()


def _refusal(code: grpc.StatusCode, told: str) -> bytes:
    return BEGINNING + status_block(code, told)
