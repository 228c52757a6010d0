"""One client's connection that handles frequent, simple requests itself (see `fast_reader`), and leaves all others
to uvicorn.
"""

from typing import Any

from pointsman_servicekit.errors import Unavailable
from uvicorn.config import Config
from uvicorn.server import ServerState

from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.http.connection_limits import ConnectionLimits
from pointsman_gateway.http.fast_reader import REQUEST_LINES, ChatReader
from pointsman_gateway.http.guarded_connection import NEVER, GuardedConnection
from pointsman_gateway.http.sinks import ConnectionSink


class FastConnection(GuardedConnection):
    """One client's connection. A `ChatReader` handles conversations of the common form, and uvicorn handles all
    other requests.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        limits: ConnectionLimits,
        reader: ChatReader,
    ) -> None:
        super().__init__(config, server_state, app_state, limits)
        self._reader = reader
        self._sink: ConnectionSink | None = None
        self._is_busy = False
        """Whether a request that was read here is in progress."""
        self._pipelined = b""
        """Bytes that arrived while a request was in progress."""
        self._partial = b""
        """The current request, as far as it has arrived."""
        self._tenant = ""
        self._reserved = 0
        """Bytes that the current request has reserved in the budget, for `_tenant`."""
        self._idle_until = NEVER
        """When the connection is closed unless a request arrives, on the event loop's clock."""
        self._closes_after_request = False
        self._has_shown_key = False

    @property
    def default_headers(self) -> Headers:
        return self.server_state.default_headers

    @property
    def has_shown_key(self) -> bool:
        return self._has_shown_key or super().has_shown_key

    @property
    def is_idle(self) -> bool:
        return not self._is_busy and super().is_idle

    @property
    def request_target(self) -> bytes:
        return self._partial.split(b" ", 2)[1] if self._partial else super().request_target

    def reserve_buffer(self, tenant: str, count: int) -> bool:
        """Reserves `count` bytes of memory for the current request of `tenant`; does nothing if it has a
        reservation.

        Returns False if too many bytes of requests are in memory already.
        """
        if not self._reserved:
            try:
                self._reader.budget.reserve(tenant, count)
            except Unavailable:
                return False
            self._tenant, self._reserved = tenant, count
        return True

    # -- called by the transport

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # TLS may still hold decrypted data
        if self._is_busy:
            self._pipelined += data
            self.flow.pause_reading()
            return
        self._idle_until = NEVER
        if self._partial:
            data, self._partial = self._partial + data, b""
        if not (data.startswith(REQUEST_LINES) and self._is_between_requests):
            self._pass_to_uvicorn(data)
            return
        self._is_busy = True
        started = self._reader.start(self, data, self._limits.max_headers)
        if isinstance(started, int):
            self._is_busy = False
            if started:
                self._partial = data
                self._unset_keepalive_if_required()
                self._await(body=True, seconds=self._limits.body_timeout)
            else:
                self._pass_to_uvicorn(data)
            return
        self._unset_keepalive_if_required()
        self._await_nothing()
        if self._is_busy:  # otherwise the request has ended already
            self._sink = started

    def connection_lost(self, exc: Exception | None) -> None:
        self._pass_partial_to_uvicorn()  # an incomplete request gets a receipt, too
        super().connection_lost(exc)
        self._cancel_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._sink is not None:
            self._sink.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sink is not None:
            self._sink.resume()

    # -- called by the server

    def shutdown(self) -> None:
        self._pass_partial_to_uvicorn()
        if not self._is_busy:
            super().shutdown()
        else:
            self._closes_after_request = True

    def abort(self) -> None:
        super().abort()
        self._cancel_request()

    def check_timeouts(self, now: float) -> None:
        if now > self._idle_until:
            self.transport.close()
        super().check_timeouts(now)  # a closing connection may still wait for its client to read

    # -- called by the sink

    def end_request(self, *, close: bool = False) -> None:
        """Ends the current request. Closes the connection if `close` is set or the server is shutting down; otherwise
        reads the next request.
        """
        self._is_busy, self._sink = False, None
        self._has_shown_key = True
        self._release_buffer()
        self.server_state.total_requests += 1
        if close or self._closes_after_request:
            self.transport.close()
            return
        self._idle_until = self.loop.time() + self._limits.idle_timeout
        if self._pipelined:
            data, self._pipelined = self._pipelined, b""
            self.flow.resume_reading()
            self.data_received(data)

    def _cancel_request(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.cancel()

    def _pass_partial_to_uvicorn(self) -> None:
        if self._partial:
            data, self._partial = self._partial, b""
            self._pass_to_uvicorn(data)

    def _pass_to_uvicorn(self, data: bytes) -> None:
        self._release_buffer()  # the ASGI application reserves the body when it reads it
        super().data_received(data)

    def _release_buffer(self) -> None:
        if self._reserved:
            self._reader.budget.release(self._tenant, self._reserved)
            self._reserved = 0

    @property
    def _is_between_requests(self) -> bool:
        """Returns whether uvicorn has no request that is partly read or unanswered, and the connection can be written
        to. Requests that are read here do not count (`_is_busy`).
        """
        cycle = self.cycle
        is_done = cycle is None or (cycle.response_complete and not cycle.more_body and cycle.scope is self.scope)
        return is_done and self._bytes_read == 0 and not self.flow.write_paused and not self.transport.is_closing()
