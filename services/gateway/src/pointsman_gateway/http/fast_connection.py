"""A guarded connection that reads the usual chat requests itself; everything else goes through uvicorn."""

from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from pointsman_gateway.http.fast_reader import LINE
from pointsman_gateway.http.guarded_connection import NEVER, Guard, GuardedProtocol
from pointsman_gateway.http.openai.chat_encoder import Headers


class Exchange(Protocol):
    """A request that was read here, and its answer."""

    def pause(self) -> None:
        """The client does not read on for now."""
        ...

    def resume(self) -> None: ...

    def cancel(self) -> None:
        """The client has gone."""
        ...


class Lane(Protocol):
    """Reads requests past uvicorn."""

    def take(self, client: "ExpressConnection", data: bytes, max_headers: int) -> "Exchange | int":
        """Starts the request in `data`, and may call `freed` before it returns. Else how many bytes the request has, if
        it has not come as a whole; 0 if it is for uvicorn."""
        ...


class ExpressConnection(GuardedProtocol):
    """One connection. One request at a time is in its hands or in uvicorn's, never in both."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], guard: Guard, lane: Lane
    ) -> None:
        super().__init__(config, server_state, app_state, guard)
        self._lane = lane
        self._exchange: Exchange | None = None
        self._is_busy = False
        """Whether a request that was read here has not ended yet."""
        self._behind = b""
        """What arrived while it was busy."""
        self._coming = b""
        """Of a request that is for the lane, as much as has come."""
        self._idle_until = NEVER
        self._last = False
        """Whether the connection is to be closed after the request that is under way."""

    @property
    def default_headers(self) -> Headers:
        return self.server_state.default_headers

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # it was on its way, within TLS
        if self._is_busy:
            self._behind += data
            self.flow.pause_reading()
            return
        self._idle_until = NEVER
        if self._coming:
            data, self._coming = self._coming + data, b""
        if not (data.startswith(LINE) and self._is_at_a_beginning):
            super().data_received(data)
            return
        self._is_busy = True
        taken = self._lane.take(self, data, self._guard.headers)
        if isinstance(taken, int):
            self._is_busy = False
            if taken:
                self._coming = data
                self._unset_keepalive_if_required()
                self._await(body=True, seconds=self._guard.body_seconds)
            else:
                super().data_received(data)
            return
        self._unset_keepalive_if_required()
        self._await_nothing()
        if self._is_busy:  # else it is over already
            self._exchange = taken

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_off_the_lane()  # a request that never came to its end leaves its receipt, too
        super().connection_lost(exc)
        self._get_off()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.resume()

    # -- what uvicorn calls

    def shutdown(self) -> None:
        self._take_off_the_lane()
        if not self._is_busy:
            super().shutdown()
        else:
            self._last = True

    def cut(self) -> None:
        super().cut()
        self._get_off()

    def sweep(self, now: float) -> None:
        if now > self._idle_until:
            self.transport.close()
        super().sweep(now)  # also one that closes may wait for its client to read

    # -- what an exchange calls

    def freed(self, *, close: bool = False) -> None:
        """The request is over: the next one may come, or the connection is closed."""
        self._is_busy, self._exchange = False, None
        self.server_state.total_requests += 1
        if close or self._last:
            self.transport.close()
            return
        self._idle_until = self.loop.time() + self._guard.idle_seconds
        self._catch_up()

    def _get_off(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def _take_off_the_lane(self) -> None:
        """What has come so far of a request goes through uvicorn."""
        if self._coming:
            coming, self._coming = self._coming, b""
            super().data_received(coming)

    def _catch_up(self) -> None:
        if self._behind:
            behind, self._behind = self._behind, b""
            self.flow.resume_reading()
            self.data_received(behind)

    @property
    def _is_at_a_beginning(self) -> bool:
        """Nothing is under way, the parser has seen whole requests only, and their answers are on their way."""
        cycle = self.cycle
        through = cycle is None or (cycle.response_complete and not cycle.more_body and cycle.scope is self.scope)
        return through and self._fed == 0 and not self.flow.write_paused and not self.transport.is_closing()
