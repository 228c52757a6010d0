"""One client's connection: HTTP/2's greeting, settings and pings, and how it ends (RFC 9113, sections 3 and 6)."""

import asyncio
import ipaddress
import logging
import random
from typing import Any, cast

from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW
from pointsman_servicekit.grpc_wire.frames import Broken, Code, Setting
from pointsman_servicekit.grpc_wire.incoming import Incoming
from pointsman_servicekit.grpc_wire.manners import Manners
from pointsman_servicekit.grpc_wire.outgoing import Outgoing
from pointsman_servicekit.grpc_wire.streams import CONNECTION_WINDOW, Find, Streams

log = logging.getLogger(__name__)

THERE, LEAVING = b"there?  ", b"leaving "
"""What we ask in pings."""
LONGEST_WORD = 200
"""Characters, of why a connection is broken."""
TIME_TO_READ = 2.0
"""Seconds in which a client reads why it is sent away."""
TIME_TO_CLOSE = 30.0
"""Seconds in which a client whose calls have all ended reads the last of them, and closes."""
TIME_TO_HEAR = 1.0
"""Seconds after the announcement that we leave until calls which were on their way then have come."""


class GrpcConnection(asyncio.Protocol):
    """Whoever made it calls `sweep` now and then: it keeps no timer of its own but for deadlines of calls."""

    def __init__(self, find: Find, limits: ServerLimits, all_of_them: "set[GrpcConnection]") -> None:
        """`find` knows the handler of a path. It stands among `all_of_them` while it is there."""
        self.streams: Streams
        self._find = find
        self._limits = limits
        self._all = all_of_them
        self._loop = asyncio.get_running_loop()
        self._manners = Manners(limits)
        self._incoming = Incoming(self._take, self._manners, 2 * limits.metadata_bytes)
        self._peer = ""
        self._transport: asyncio.Transport
        self._out: Outgoing
        now = self._loop.time()
        self._since = self._heard = now
        self._asked: float | None = None
        """When we asked whether the client is there."""
        self._unread = 0
        """Bytes that the client had not read when it was last looked at."""
        self._old_at = now + limits.age_seconds * random.uniform(0.9, 1.1) if limits.age_seconds else None
        self._leaving: float | None = None
        """When we announced that we leave."""
        self._shut_at: float | None = None
        self._patience = TIME_TO_CLOSE
        """Seconds from then on until it is cut."""

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limits = self._limits
        self._transport = cast(asyncio.Transport, transport)
        self._peer = _peer(transport.get_extra_info("peername"))
        self._out = Outgoing(self._loop, self._transport)
        self.streams = Streams(self._out, self._peer, limits, self._manners, self._find, self._rest)
        said = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.INITIAL_WINDOW_SIZE: WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: limits.metadata_bytes,
        }
        more = CONNECTION_WINDOW - frames.INITIAL_WINDOW
        self._out.say(frames.settings(said) + frames.window_update(0, more))
        if len(self._all) >= limits.connections:
            self._loop.call_later(TIME_TO_READ, self._transport.abort)  # nobody sweeps it
            self._break(Broken(Code.ENHANCE_YOUR_CALM, "there are too many connections"))
        else:
            self._all.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.streams.cut()
        self._all.discard(self)
        del self._incoming  # it holds us, too

    def pause_writing(self) -> None:
        """Nothing more is heard of a client either that does not read: each thing it says may want an answer."""
        self._out.is_stuffed = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._out.is_stuffed = False
        if self._shut_at is None:
            self._transport.resume_reading()
        self.streams.pump()

    def data_received(self, data: bytes) -> None:
        if self._shut_at is not None:
            return
        self._heard = self._loop.time()
        self._asked = None
        try:
            self._incoming.read(data)
            self.streams.pump_widened()
        except Broken as broken:
            self._break(broken)

    def eof_received(self) -> None:
        return None

    # -- what the client says

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self.streams.data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self.streams.headers(flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self.streams.window(stream, frames.number(payload, "WINDOW_UPDATE") & frames.LARGEST_WINDOW)
        elif kind == frames.RST_STREAM:
            frames.number(payload, "RST_STREAM")
            self.streams.reset(stream)
        elif kind == frames.PING:
            self._on_ping(flags, stream, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream, payload)
        elif kind == frames.PUSH_PROMISE:
            raise Broken(Code.PROTOCOL_ERROR, "clients push nothing")
        elif kind != frames.GOAWAY:  # after which a client says nothing more by itself
            self._manners.brought_nothing()  # what is unknown is passed over

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise Broken(Code.FRAME_SIZE_ERROR if not stream else Code.PROTOCOL_ERROR, "this is no ping")
        if flags & frames.ACK:
            if payload == LEAVING and self._leaving is not None:
                self._leave_for_good()
            return
        self._out.say(frames.frame(frames.PING, frames.ACK, 0, payload))
        answered, self._out.answered = self._out.answered, False
        self._manners.pinged(self._loop.time(), answered)

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Broken(Code.PROTOCOL_ERROR, "settings belong to no stream")
        if flags & frames.ACK:
            if payload:
                raise Broken(Code.FRAME_SIZE_ERROR, "who has heard of settings sets none")
            return
        self._manners.brought_nothing()
        before = first_window = self.streams.first_window
        for name, value in frames.read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, "the initial window is too large")
                first_window = value
            elif name == Setting.HEADER_TABLE_SIZE:
                self._out.table_is_smaller |= value < frames.HEADER_TABLE
            elif name == Setting.MAX_FRAME_SIZE and not frames.LARGEST_FRAME <= value < 2**24:
                raise Broken(Code.PROTOCOL_ERROR, "the largest frame is out of its bounds")  # ours never are larger
        if first_window != before:
            self.streams.first_windows(first_window)
        self._out.say(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))

    # -- what whoever made it asks

    def sweep(self, now: float) -> None:
        """Looks who is too slow, too old or gone."""
        self._manners.sweep()
        limits = self._limits
        unread, self._unread = self._unread, self._transport.get_write_buffer_size()
        if self._shut_at is not None:
            if now - self._shut_at > self._patience:
                self._transport.abort()
            return
        if self._unread < unread:  # it is slow, and there
            self._heard, self._asked = now, None
        if not self._incoming.greeted:
            if now - self._since > limits.handshake_seconds:
                self._transport.abort()
        elif self._asked is not None:
            if now - self._asked > limits.ping_seconds:
                self._transport.abort()
        elif now - self._heard > limits.silence_seconds:
            self._asked = now
            self._out.say(frames.frame(frames.PING, 0, 0, THERE))
        if self._old_at is not None and now > self._old_at:
            self.leave()
        if self._leaving is not None and now - self._leaving > TIME_TO_HEAR:
            self._leave_for_good()

    def leave(self) -> None:
        """Takes no new calls, once the client has heard of that; those that it has go on. Then closes."""
        if self._leaving is not None:
            return
        self._old_at = None
        self._leaving = self._loop.time()
        if self._incoming.greeted:
            asked = frames.frame(frames.PING, 0, 0, LEAVING)
            self._out.say(frames.goaway(frames.LARGEST_WINDOW, Code.NO_ERROR) + asked)
        else:
            self._leave_for_good()

    def has_closed(self, now: float) -> bool:
        """Whether nothing more is to be waited for; a client that stays without need is not."""
        return self._shut_at is not None and not self.streams.at_work and now - self._shut_at > TIME_TO_HEAR

    def cut(self) -> None:
        """Ends what is still being done, and closes."""
        self.streams.refuse("the server stops")
        self._leave_for_good()
        self._shut()

    def hang_up(self) -> None:
        """Whatever the client has not read yet."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    # -- the end

    def _leave_for_good(self) -> None:
        if not self.streams.closed:
            self.streams.closed = True
            self._out.say(frames.goaway(self.streams.latest, Code.NO_ERROR))
            self._rest()

    def _rest(self) -> None:
        """Closes where we have left, and nothing is to be done any more."""
        if self.streams.closed and not self.streams.calls:
            self._shut()

    def _break(self, broken: Broken) -> None:
        log.info("%s does not speak as it should: %s", self._peer, str(broken)[:LONGEST_WORD])
        self._out.say(frames.goaway(self.streams.latest, broken.code, str(broken)[:LONGEST_WORD]))
        self.streams.cut()
        self._patience = TIME_TO_READ
        self._shut()

    def _shut(self) -> None:
        """Says that this was all, and lets the client close. What it says meanwhile is taken off the socket: were it
        left there when that is closed, the client would be told of a reset, and lose what it has not read."""
        if self._shut_at is not None:
            return
        self._shut_at = self._loop.time()
        self._out.flush()
        if self._transport.is_closing():
            return
        if self._out.is_stuffed:
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
