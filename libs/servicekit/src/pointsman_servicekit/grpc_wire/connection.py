"""One client's connection: HTTP/2's frames in and out, its windows, and what a client may not do (RFC 9113)."""

import asyncio
import ipaddress
import logging
import random
from collections.abc import Callable
from typing import Any, cast

import grpc

from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW, Call
from pointsman_servicekit.grpc_wire.frames import Broken, Code, Setting
from pointsman_servicekit.grpc_wire.heads import BEGINNING, NOT_GRPC, BadHead, Head, HeadReader, status_block
from pointsman_servicekit.grpc_wire.outgoing import Outgoing, widened

log = logging.getLogger(__name__)

CONNECTION_WINDOW = 4 * 1024 * 1024
"""Bytes that a client may send on all streams together beyond what has been read off the connection."""
MOST_HELD = 8
"""So many times the largest message may wait on one connection, of all its calls."""
LEAST_HELD = 4 * WINDOW
"""Bytes that may, however small the largest message is."""
MOST_IDLE_FRAMES = 1_000
"""Frames in a row that bring nothing."""
THERE, LEAVING = b"there?  ", b"leaving "
"""What we ask in pings."""
LONGEST_WORD = 200
"""Characters, of why a connection is broken."""
MOST_RESETS = 8
"""So many times the most streams may be taken back between two sweeps."""
MOST_PING_STRIKES = 2
TIME_TO_READ = 2.0
"""Seconds in which a client reads why it is sent away."""
TIME_TO_CLOSE = 30.0
"""Seconds in which a client whose calls have all ended reads the last of them, and closes."""
TIME_TO_HEAR = 1.0
"""Seconds after the announcement that we leave until calls which were on their way then have come."""

Find = Callable[[str], "grpc.RpcMethodHandler[Any, Any] | None"]


class GrpcConnection(asyncio.Protocol):
    """Whoever made it calls `sweep` now and then: it keeps no timer of its own but for deadlines of calls."""

    def __init__(self, find: Find, limits: ServerLimits, all_of_them: "set[GrpcConnection]") -> None:
        """`find` knows the handler of a path. It stands among `all_of_them` while it is there."""
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.limits = limits
        self.peer = ""
        self.calls: dict[int, Call] = {}
        """By their streams."""
        self.at_work = 0
        """Servicers that are busy, among them some whose client wants no more."""
        self.held = 0
        """Bytes of requests that have come and were not read."""
        self.most_held = max(MOST_HELD * limits.message_bytes, LEAST_HELD)
        self.first_window = frames.INITIAL_WINDOW
        self.out: Outgoing
        self._find = find
        self._all = all_of_them
        self._transport: asyncio.Transport
        self._heads = HeadReader(limits.metadata_bytes)
        self._held = b""
        self._greeted = False
        """The client has said that it speaks HTTP/2, and how."""
        self._last = 0
        """The latest stream that was begun."""
        self._taken = 0
        """The latest of them that was not passed over."""
        self._widened = False
        """Whether more may be sent, since something was pending last."""
        self._block: tuple[int, int, bytes] | None = None
        """(stream, flags, headers) so far, of headers that go on."""
        self._room = CONNECTION_WINDOW
        """Bytes that the client may still send, on all streams together."""
        now = self.clock()
        self._since = self._heard = now
        self._asked: float | None = None
        """When we asked whether the client is there."""
        self._pinged = 0.0
        self._strikes = 0
        self._idle_frames = 0
        self._resets = 0
        """Of calls, by the client, since the last sweep."""
        self._old_at = now + limits.age_seconds * random.uniform(0.9, 1.1) if limits.age_seconds else None
        self._leaving: float | None = None
        """When we announced that we leave."""
        self._left = False
        """No further calls are taken."""
        self._shut_at: float | None = None
        self._patience = TIME_TO_CLOSE
        """Seconds from then on until it is cut."""
        self._unread = 0
        """Bytes that the client had not read when it was last looked at."""

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = _peer(transport.get_extra_info("peername"))
        self.out = Outgoing(self.loop, self._transport)
        said = {
            Setting.MAX_CONCURRENT_STREAMS: self.limits.streams,
            Setting.INITIAL_WINDOW_SIZE: WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: self.limits.metadata_bytes,
        }
        more = CONNECTION_WINDOW - frames.INITIAL_WINDOW
        self.out.say(frames.settings(said) + frames.window_update(0, more))
        if len(self._all) >= self.limits.connections:
            self.loop.call_later(TIME_TO_READ, self._transport.abort)  # nobody sweeps it
            self._break(Broken(Code.ENHANCE_YOUR_CALM, "there are too many connections"))
        else:
            self._all.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        for call in self.calls.values():
            call.cut()
        self.calls.clear()
        self._left = True
        self._all.discard(self)

    def pause_writing(self) -> None:
        """Nothing more is heard of a client either that does not read: each thing it says may want an answer."""
        self.out.is_stuffed = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.out.is_stuffed = False
        if self._shut_at is None:
            self._transport.resume_reading()
        self._pump_all()

    def data_received(self, data: bytes) -> None:
        if self._shut_at is not None:
            return
        self._heard = self.clock()
        self._asked = None
        try:
            self._read(self._held + data if self._held else data)
            if self._widened:
                self._widened = False
                self._pump_all()
        except Broken as broken:
            self._break(broken)

    def eof_received(self) -> None:
        return None

    # -- what whoever made it asks

    def sweep(self, now: float) -> None:
        """Looks who is too slow, too old or gone."""
        self._resets = 0
        limits = self.limits
        unread, self._unread = self._unread, self._transport.get_write_buffer_size()
        if self._shut_at is not None:
            if now - self._shut_at > self._patience:
                self._transport.abort()
            return
        if self._unread < unread:  # it is slow, and there
            self._heard, self._asked = now, None
        if not self._greeted:
            if now - self._since > limits.handshake_seconds:
                self._transport.abort()
        elif self._asked is not None:
            if now - self._asked > limits.ping_seconds:
                self._transport.abort()
        elif now - self._heard > limits.silence_seconds:
            self._asked = now
            self.out.say(frames.frame(frames.PING, 0, 0, THERE))
        if self._old_at is not None and now > self._old_at:
            self.leave()
        if self._leaving is not None and not self._left and now - self._leaving > TIME_TO_HEAR:
            self._leave_for_good()

    def leave(self) -> None:
        """Takes no new calls, once the client has heard of that; those that it has go on. Then closes."""
        if self._leaving is None:
            self._old_at = None
            self._leaving = self.clock()
            if self._greeted:
                asked = frames.frame(frames.PING, 0, 0, LEAVING)
                self.out.say(frames.goaway(frames.LARGEST_WINDOW, Code.NO_ERROR) + asked)
            else:
                self._leave_for_good()

    def has_closed(self, now: float) -> bool:
        """Whether nothing more is to be waited for; a client that stays without need is not."""
        return self._shut_at is not None and not self.at_work and now - self._shut_at > TIME_TO_HEAR

    def hang_up(self) -> None:
        """Whatever the client has not read yet."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def cut(self) -> None:
        """Ends what is still being done, and closes."""
        for call in list(self.calls.values()):
            call.refuse(grpc.StatusCode.UNAVAILABLE, "the server stops")
        self._leave_for_good()
        self._shut()

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

    def make_room(self, call: Call) -> None:
        """It has read what came."""
        if call.room <= WINDOW // 2:
            self.out.say(frames.window_update(call.id, WINDOW - call.room))
            call.room = WINDOW

    def done(self) -> None:
        """A servicer has come to its end."""
        self.at_work -= 1

    # -- frames in

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise Broken(Code.PROTOCOL_ERROR, "this is not HTTP/2")
            if end < len(frames.PREFACE) + frames.HEAD_BYTES:
                self._held = data
                return
            at = len(frames.PREFACE)
            if data[at + 3] != frames.SETTINGS:
                raise Broken(Code.PROTOCOL_ERROR, "settings come first")
            self._greeted = True
        while end - at >= frames.HEAD_BYTES:
            high, low, kind, flags, stream = frames.read_head(data, at)
            length = high << 8 | low
            if length > frames.LARGEST_FRAME:
                raise Broken(Code.FRAME_SIZE_ERROR, f"a frame has {length} bytes; at most {frames.LARGEST_FRAME}")
            following = at + frames.HEAD_BYTES + length
            if following > end:
                break
            payload = data[at + frames.HEAD_BYTES : following]
            at = following
            self._take(kind, flags, stream & frames.LARGEST_WINDOW, payload)
        self._held = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise Broken(Code.PROTOCOL_ERROR, "headers are interrupted")
        if kind == frames.DATA:
            self._on_data(flags, stream, payload)
        elif kind == frames.HEADERS:
            block = frames.unpadded(flags, payload) if flags & (frames.PADDED | frames.WITH_PRIORITY) else payload
            if stream % 2 == 0:
                raise Broken(Code.PROTOCOL_ERROR, f"a client begins no stream {stream}")
            self._on_block(stream, flags, block)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window(stream, frames.number(payload, "WINDOW_UPDATE") & frames.LARGEST_WINDOW)
        elif kind == frames.RST_STREAM:
            self._on_reset(stream, frames.number(payload, "RST_STREAM"))
        elif kind == frames.PING:
            self._on_ping(flags, stream, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            if self._block is None or self._block[0] != stream:
                raise Broken(Code.PROTOCOL_ERROR, "no headers go on here")
            number, before, begun = self._block
            if not payload:
                self._idle()
            self._block = None
            self._on_block(number, before | flags & frames.END_HEADERS, begun + payload)
        elif kind == frames.PUSH_PROMISE:
            raise Broken(Code.PROTOCOL_ERROR, "clients push nothing")
        elif kind != frames.GOAWAY:  # after which a client says nothing more by itself
            self._idle()  # what is unknown is passed over

    def _idle(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MOST_IDLE_FRAMES:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames bring nothing")

    def _on_block(self, stream: int, flags: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            if len(block) > 2 * self.limits.metadata_bytes:
                raise Broken(Code.ENHANCE_YOUR_CALM, "headers do not end")
            self._block = stream, flags, block
            return
        head: Head | None = None
        try:
            head = self._heads.read(block)
        except BadHead as bad:
            log.debug("%s asks for what is no call: %s", self.peer, bad)
        call = self.calls.get(stream)
        if call is not None:
            self._trailers(call, flags)
        elif stream > self._last:
            self._last = stream
            if not self._left:  # else the client has heard which calls were the last, and asks elsewhere
                self._taken = stream
                self._begin(stream, flags, head)
        # else it belongs to a call that has ended here, while this was on its way

    def _trailers(self, call: Call, flags: int) -> None:
        """Clients have nothing to say in them; they only end what they say."""
        if not flags & frames.END_STREAM:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {call.id} begins twice")
        self._half_close(call)

    def _begin(self, stream: int, flags: int, head: Head | None) -> None:
        self._idle_frames = 0
        if head is None:
            self._end_at_once(stream, flags, NOT_GRPC)
            return
        if max(len(self.calls), self.at_work) >= self.limits.streams:
            self.out.say(frames.reset(stream, Code.REFUSED_STREAM))
            return
        handler = self._find(head.path)
        if handler is None:
            self._refuse(stream, flags, grpc.StatusCode.UNIMPLEMENTED, f"there is no method {head.path}")
        elif head.size > self.limits.metadata_bytes:
            told = f"the metadata has {head.size} bytes; at most {self.limits.metadata_bytes}"
            self._refuse(stream, flags, grpc.StatusCode.RESOURCE_EXHAUSTED, told)
        elif head.fault:
            self._refuse(stream, flags, grpc.StatusCode.INTERNAL, head.fault)
        else:
            call = self.calls[stream] = Call(self, stream, head, handler)
            call.opened()
            if flags & frames.END_STREAM:
                self._half_close(call)

    def _refuse(self, stream: int, flags: int, code: grpc.StatusCode, told: str) -> None:
        self._end_at_once(stream, flags, BEGINNING + status_block(code, told))

    def _end_at_once(self, stream: int, flags: int, block: bytes) -> None:
        self.out.say(self.out.headers(stream, frames.END_STREAM, block))
        if not flags & frames.END_STREAM:
            self.out.say(frames.reset(stream, Code.NO_ERROR))

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._room -= size
        if self._room < 0:
            raise Broken(Code.FLOW_CONTROL_ERROR, "more came than the connection has room for")
        if self._room <= CONNECTION_WINDOW // 2:
            self.out.say(frames.window_update(0, CONNECTION_WINDOW - self._room))
            self._room = CONNECTION_WINDOW
        call = self.calls.get(stream)
        if call is None or call.half_closed:
            if stream > self._last or stream % 2 == 0:
                raise Broken(Code.PROTOCOL_ERROR, f"stream {stream} has not begun")
            return  # it has ended here, while this was on its way
        call.room -= size
        if call.room < 0:
            self._drop(call, Code.FLOW_CONTROL_ERROR)
            return
        data = frames.unpadded(flags & frames.PADDED, payload) if flags & frames.PADDED else payload
        ends = flags & frames.END_STREAM
        if data:
            self._idle_frames = 0
        elif not ends:
            self._idle()
        if payload:
            call.came(data)
        if ends:
            self._half_close(call)

    def _half_close(self, call: Call) -> None:
        if not call.half_closed:
            call.half_closed = True
            if not call.over:
                call.ended()

    def _on_window(self, stream: int, more: int) -> None:
        if stream == 0:
            self._widened |= self.out.window <= 0
            self.out.window = widened(self.out.window, more)
            return
        call = self.calls.get(stream)
        if call is None:
            if stream > self._last:
                raise Broken(Code.PROTOCOL_ERROR, f"stream {stream} has not begun")
            return
        try:
            call.window = widened(call.window, more)
        except Broken as broken:
            self._drop(call, broken.code)
        else:
            self._pump(call)

    def _drop(self, call: Call, code: Code) -> None:
        """Its client does not keep to the rules."""
        self._count_reset()
        del self.calls[call.id]
        call.cut()
        self.out.say(frames.reset(call.id, code))
        self._rest()

    def _on_reset(self, stream: int, code: int) -> None:
        if stream > self._last or stream == 0:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {stream} has not begun")
        call = self.calls.pop(stream, None)
        if call is not None:
            call.cut()
            self._count_reset()
            self._rest()

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > MOST_RESETS * self.limits.streams:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many calls are taken back at once")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise Broken(Code.FRAME_SIZE_ERROR if not stream else Code.PROTOCOL_ERROR, "this is no ping")
        if flags & frames.ACK:
            if payload == LEAVING and self._leaving is not None:
                self._leave_for_good()
            return
        self.out.say(frames.frame(frames.PING, frames.ACK, 0, payload))
        now = self.clock()
        if self.out.answered:  # clients measure how fast that comes
            self.out.answered = False
            self._strikes = 0
        if now - self._pinged < self.limits.ping_seconds:
            self._strikes += 1
            if self._strikes > MOST_PING_STRIKES:
                raise Broken(Code.ENHANCE_YOUR_CALM, "too_many_pings")
        self._pinged = now

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Broken(Code.PROTOCOL_ERROR, "settings belong to no stream")
        if flags & frames.ACK:
            return
        self._idle()
        first_window = self.first_window
        for name, value in frames.read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, "the initial window is too large")
                first_window = value
            elif name == Setting.HEADER_TABLE_SIZE:
                self.out.table_is_smaller |= value < frames.HEADER_TABLE
            elif name == Setting.MAX_FRAME_SIZE and not frames.LARGEST_FRAME <= value < 2**24:
                raise Broken(Code.PROTOCOL_ERROR, "the largest frame is out of its bounds")  # ours never are larger
        if first_window != self.first_window:
            for call in self.calls.values():
                call.window += first_window - self.first_window
            self.first_window = first_window
            self._widened = True
        self.out.say(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))

    # -- how calls end

    def _pump_all(self) -> None:
        for call in list(self.calls.values()):
            if call.pending or call.trailers is not None or call.waiting is not None:
                self._pump(call)

    def _pump(self, call: Call) -> None:
        if self.out.pump(call) and call.trailers is not None:
            call.all_taken()
            self.close(call, call.trailers)

    def close(self, call: Call, trailers: bytes) -> None:
        """The last that is said on its stream."""
        self.out.say(self.out.headers(call.id, frames.END_STREAM, trailers))
        if not call.half_closed:
            self.out.say(frames.reset(call.id, Code.NO_ERROR))
        del self.calls[call.id]
        self._rest()

    # -- the end

    def _leave_for_good(self) -> None:
        if not self._left:
            self._left = True
            self.out.say(frames.goaway(self._taken, Code.NO_ERROR))
            self._rest()

    def _rest(self) -> None:
        """Closes where we have left, and nothing is to be done any more."""
        if self._left and not self.calls:
            self._shut()

    def _break(self, broken: Broken) -> None:
        log.info("%s does not speak as it should: %s", self.peer, str(broken)[:LONGEST_WORD])
        self._left = True
        self.out.say(frames.goaway(self._taken, broken.code, str(broken)[:LONGEST_WORD]))
        for call in self.calls.values():
            call.cut()
        self.calls.clear()
        self._patience = TIME_TO_READ
        self._shut()

    def _shut(self) -> None:
        """Says that this was all, and lets the client close. What it says meanwhile is taken off the socket: were it
        left there when that is closed, the client would be told of a reset, and lose what it has not read."""
        if self._shut_at is None:
            self._shut_at = self.clock()
            self.out.flush()
            if self._transport.is_closing():
                return
            if self.out.is_stuffed:
                self._transport.resume_reading()
            try:
                if self._transport.can_write_eof():  # TLS cannot, without closing
                    self._transport.write_eof()
            except OSError:  # the client was quicker
                self._transport.close()


def _peer(name: Any) -> str:
    """As gRPC writes addresses."""
    if not isinstance(name, tuple):
        return f"unix:{name or ''}"
    host, port = name[0], name[1]
    try:
        is_v6 = ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        is_v6 = False
    return f"ipv6:[{host}]:{port}" if is_v6 else f"ipv4:{host}:{port}"
