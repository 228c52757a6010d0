"""uvicorn's HTTP/1.1 connection with limits on clients that send too much, send too slowly, or do not read."""

import asyncio
from itertools import islice
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pointsman_gateway.codec.headers import KEY_HEADERS
from pointsman_gateway.http.asgi_answer import CALLER, DISCONNECTED, ON_DISCONNECT
from pointsman_gateway.http.connection_limits import (
    BAD_HTTP,
    BAD_TRANSFER_ENCODING,
    RESERVED_CONNECTIONS,
    TRAILERS_TOO_LARGE,
    ConnectionLimits,
    DiscardingTransport,
    Rejection,
    UnreadBody,
    headers_too_large,
)

NEVER = float("inf")

SINGLE_HEADERS = (b"authorization", *KEY_HEADERS, b"host")
"""Headers that must not be repeated: a proxy in front may use the first one, and this gateway the last one."""


MAX_PIPELINED = 4
"""Maximum number of pipelined requests that wait for earlier answers.

If there are more, the connection is closed after the waiting requests were answered, so that no client can cause
hundreds of error responses by one packet. The client may send the unanswered requests again.
"""
MAX_STRANGERS_CHECKED = 16
"""Maximum number of connections without a valid key that are checked when a client connects and the maximum number of
connections is open. The first idle one of them is closed, to make room."""


class _RejectedRequest(Exception):
    """Raised within the parser's callbacks to make it stop at a request that is rejected, or whose body is not read."""


class GuardedConnection(HttpToolsProtocol):
    """One HTTP connection with limits. The server has to call `check_timeouts` periodically; so no request needs a
    timer.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], limits: ConnectionLimits
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.url = b""  # uvicorn's, as long as no request has arrived
        self.access_log = False  # uvicorn logs addresses, which may hold secrets, if any logger listens
        self._limits = limits
        self.strangers: dict[GuardedConnection, None] = {}
        """The server's connections on which no valid key has been shown yet, the oldest first."""
        self._bytes_read = 0
        """Bytes read since the last headers were complete, without the rest of the read that completed them."""
        self._awaited_scope: object = None
        """The value of `self.scope` when `_deadline` was set; if `self.scope` is another object, another request has
        begun."""
        self._awaits_body = False
        self._deadline = NEVER
        """When the awaited headers or body must be complete, on the event loop's clock."""
        self._read_deadline = NEVER
        """The time on the event loop's clock at which the connection is closed unless the client reads more of its
        answer."""
        self._rejection = BAD_HTTP
        """The response that is sent if the parser stops."""
        self._has_headers = False
        """Whether the headers of the current request are complete; the parser then reports trailers as headers."""
        self._trailers = 0
        self._trailer_bytes = 0
        self._read_has_body = False
        """Whether the last read held a part of the body."""
        self._bytes_without_body = 0
        """Bytes since the last read with a part of the body: they are chunk extensions and trailers."""
        self._discarding: DiscardingTransport | None = None
        self._unread_body: UnreadBody | None = None
        """The rest of a body that is being discarded, if there is one."""
        self._keeps_alive = False
        """The `keep_alive` of uvicorn's cycle before `_answer_without_body` unset it."""
        self._reads_no_more = False
        """Whether the connection closes after the requests that wait for their answers."""
        self._bodies: list[bytes] = []
        """Parts of the body in the current read, joined because each tiny chunk would cost uvicorn a microsecond."""
        self._unanswered: list[RequestResponseCycle] = []
        """The pipelined requests without a complete answer, of which uvicorn itself only knows the last one."""

    # -- called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        limit, count = self._limits.max_connections, len(self.connections)
        if count >= limit and not self._close_a_stranger() and count >= limit + RESERVED_CONNECTIONS:
            self.transport = transport
            self._reject(Rejection(503, "too_many_connections", f"{limit} connections are open already"))
            return
        super().connection_made(transport)
        self.strangers[self] = None
        self._deadline = self.loop.time() + self._limits.header_timeout

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn's timer would keep all of this for its 30 s
        self.strangers.pop(self, None)
        if self._discarding is not None:
            self._discarding.release()
        unanswered, self._unanswered = self._unanswered, []
        for cycle in unanswered:
            if not cycle.response_complete:
                _disconnect(cycle)

    @property
    def has_shown_key(self) -> bool:
        """Returns whether the last request on this connection had a valid API key. If authentication is off, every
        request counts as having one.
        """
        return self.cycle is not None and CALLER in self.cycle.scope

    @property
    def request_target(self) -> bytes:
        """Returns path and query of the current request, as far as they have arrived, or of the last one."""
        return self.url

    @property
    def is_idle(self) -> bool:
        """Returns whether no request is in progress. A request whose headers are still incomplete does not count."""
        return self.cycle is None or self.cycle.response_complete

    def _close_a_stranger(self) -> bool:
        """Closes the oldest idle connection on which no valid key was shown; returns False if there is none.

        Considers the oldest `MAX_STRANGERS_CHECKED` connections only.
        """
        for connection in list(islice(self.strangers, MAX_STRANGERS_CHECKED)):
            if connection.has_shown_key:
                del self.strangers[connection]
            elif connection.is_idle:
                del self.strangers[connection]
                self._limits.on_rejection("closed_for_another")
                connection.transport.abort()
                return True
        return False

    def data_received(self, data: bytes) -> None:
        if self._unread_body is not None:
            self._unread_body.discard(data)
            return
        if self._reads_no_more:
            return
        self._bytes_read += len(data)
        super().data_received(data)
        self._hand_on_body()
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            self._await_headers()
        elif cycle.response_complete:
            # The data is no request yet (such as an empty line), or a body that nobody reads any more.
            self._await_headers() if self.timeout_keep_alive_task is None else self._await_nothing()
        elif cycle.more_body:
            self._bytes_read = 0
            self._limit_bytes_without_body(len(data))
            self._answer_without_body()
            self._await(body=True, seconds=self._limits.body_timeout)
        else:
            self._await_nothing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.time() + self._limits.stall_timeout

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_deadline = NEVER

    # -- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_headers:
            super().on_header(name, value)
            return
        # Trailers are counted and dropped. If they were added to the headers, an API key in them would be accepted.
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value) + 4
        if self._trailers > self._limits.max_headers or self._trailer_bytes > self._limits.max_header_bytes:
            self._rejection = TRAILERS_TOO_LARGE
            raise _RejectedRequest

    def on_body(self, body: bytes) -> None:
        self._read_has_body = True
        self._bodies.append(body)

    def on_message_complete(self) -> None:
        self._hand_on_body()
        super().on_message_complete()
        self._has_headers = False
        cycle: Any = self.cycle
        if cycle is not None and cycle.transport is self._discarding and not cycle.response_started:
            cycle.keep_alive = self._keeps_alive

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._reads_no_more = True
            raise _RejectedRequest
        limits = self._limits
        if len(self.headers) > limits.max_headers:
            self._rejection = headers_too_large(f"at most {limits.max_headers} headers")
            raise _RejectedRequest
        self._reject_ambiguous_headers()
        if self._bytes_read > limits.max_header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.max_header_bytes:
                self._rejection = self._too_many_header_bytes()
                raise _RejectedRequest
        scope: Any = self.scope
        scope[ON_DISCONNECT] = None
        super().on_headers_complete()
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        if self.cycle is not None:
            self._unanswered.append(self.cycle)
        self._bytes_read = 0
        self._has_headers = self._read_has_body = True
        self._trailers = self._trailer_bytes = self._bytes_without_body = 0

    def send_400_response(self, msg: str) -> None:
        """Sends the error response for the limit that the current request breaks, instead of uvicorn's own. uvicorn
        calls it when its parser has stopped.

        After too many pipelined requests it sends nothing, but the connection closes after the last answer.
        """
        if self._reads_no_more:
            self.pipeline[0][0].keep_alive = False  # the last one: the connection closes after its answer
        else:
            self._reject(self._rejection)

    # -- called by the server

    def check_timeouts(self, now: float) -> None:
        """Closes the connection if its client is too slow; `now` is the event loop's time in seconds.

        A client whose headers or body are late gets the status 408. A client that does not read its answer, or still
        sends after its answer, gets no response.
        """
        if now > self._read_deadline:
            self._limits.on_rejection("reads_nothing")
            self.transport.abort()
        elif self._unread_body is not None:
            if now > self._unread_body.deadline:
                self.transport.abort()
        elif now > self._deadline:
            limits = self._limits
            if self._waits_for_gateway:
                self._deadline = now + limits.header_timeout
            elif self._awaits_body:
                self._reject(Rejection(408, "slow_body", f"the body did not come within {limits.body_timeout:g} s"))
            else:
                self._reject(Rejection(408, "slow_headers", f"no headers came within {limits.header_timeout:g} s"))

    def shutdown(self) -> None:
        super().shutdown()
        self._keeps_alive = False

    def abort(self) -> None:
        """Closes the connection at once, even if a request is in progress."""
        self.transport.abort()

    def _reject_ambiguous_headers(self) -> None:
        """Raises _RejectedRequest if a proxy in front could read another key, host or body from the same request."""
        names = [name for name, _ in self.headers]
        for name in SINGLE_HEADERS:
            if names.count(name) > 1:
                self._rejection = Rejection(
                    400, "duplicate_header", f"there are two '{name.decode()}' headers; send one"
                )
                raise _RejectedRequest
        if b"transfer-encoding" in names:
            encodings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if encodings != [b"chunked"]:
                self._rejection = BAD_TRANSFER_ENCODING
                raise _RejectedRequest

    def _hand_on_body(self) -> None:
        if self._bodies:
            bodies, self._bodies = self._bodies, []
            super().on_body(bodies[0] if len(bodies) == 1 else b"".join(bodies))

    def _limit_bytes_without_body(self, count: int) -> None:
        """Limits trailers and chunk extensions, which the parser does not report while they are incomplete."""
        self._bytes_without_body = 0 if self._read_has_body else self._bytes_without_body + count
        self._read_has_body = False
        if self._bytes_without_body > self._limits.max_header_bytes:
            self._reject(TRAILERS_TOO_LARGE)

    def _answer_without_body(self) -> None:
        """Makes uvicorn close the connection after an answer that is sent before the body is complete, such as 401; the
        rest of the body is then discarded first. `on_message_complete` undoes this if the answer has not begun by then.
        """
        cycle: Any = self.cycle
        if self._discarding is None:
            self._discarding = DiscardingTransport(self.transport, self._close_or_discard)
        if cycle.transport is not self._discarding:
            cycle.transport = self._discarding
            self._keeps_alive, cycle.keep_alive = cycle.keep_alive, False

    def _close_or_discard(self) -> None:
        """Closes the connection after an answer, or first discards the rest of the request's body."""
        if not self.cycle.more_body:
            self.transport.close()
        elif self._unread_body is None:
            self._unread_body = UnreadBody(self.transport, self.loop.time)

    @property
    def _waits_for_gateway(self) -> bool:
        """Returns whether the client waits for the gateway: reading is paused, or the last request is complete and not
        answered yet.
        """
        is_answering = not self._awaits_body and self.cycle is not None and not self.cycle.response_complete
        return is_answering or self.flow.read_paused

    def _await_headers(self) -> None:
        if self._bytes_read > self._limits.max_header_bytes:
            self._reject(self._too_many_header_bytes())
        self._await(body=False, seconds=self._limits.header_timeout)

    def _await(self, *, body: bool, seconds: float) -> None:
        if self._awaited_scope is not self.scope or self._awaits_body is not body or self._deadline == NEVER:
            self._awaited_scope, self._awaits_body = self.scope, body
            self._deadline = self.loop.time() + seconds

    def _await_nothing(self) -> None:
        self._bytes_read, self._deadline, self._awaits_body = 0, NEVER, False

    def _too_many_header_bytes(self) -> Rejection:
        limit = self._limits.max_header_bytes
        return headers_too_large(f"the request line and all headers have at most {limit} bytes")

    def _reject(self, rejection: Rejection) -> None:
        if self.transport.is_closing():
            return
        self._limits.on_rejection(rejection.code)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(rejection.response(self.request_target))
        self.transport.close()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Ends a request whose client has disconnected: nothing more is written, and its run is cancelled."""
    cycle.disconnected = True
    cycle.message_event.set()
    scope: Any = cycle.scope
    on_disconnect, scope[ON_DISCONNECT] = scope.get(ON_DISCONNECT), DISCONNECTED
    if callable(on_disconnect):
        on_disconnect()
