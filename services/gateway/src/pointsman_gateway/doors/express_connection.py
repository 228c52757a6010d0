"""A guarded connection with an express lane: what the lane takes goes past uvicorn, everything else through it."""

from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from pointsman_gateway.doors.express_request import LINE
from pointsman_gateway.doors.guarded_http import NEVER, Guard, GuardedProtocol
from pointsman_gateway.doors.handed_over import HANDED_OVER, HandedOver
from pointsman_gateway.doors.openai_answers import Headers


class Riding(Protocol):
    """A request on the lane."""

    def pause(self) -> None:
        """The client does not read on for now."""
        ...

    def resume(self) -> None: ...

    def gone(self) -> None:
        """The client has hung up."""
        ...


class Lane(Protocol):
    """Takes requests past uvicorn."""

    def length_of(self, data: bytes) -> int:
        """Bytes that a request has which begins so; 0 where it is not for the lane."""
        ...

    def take(self, client: "ExpressConnection", data: bytes) -> "Riding | HandedOver | None":
        """A whole request. One that rides is on its way; anything else goes through uvicorn."""
        ...

    def refused(self, handed: HandedOver) -> None:
        """uvicorn's parser does not read what was handed over."""
        ...


class ExpressConnection(GuardedProtocol):
    """One connection. One request at a time is on the lane, or in uvicorn's hands, never both."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], guard: Guard, lane: Lane
    ) -> None:
        super().__init__(config, server_state, app_state, guard)
        self._lane = lane
        self._riding: Riding | None = None
        self._behind = b""
        """What came while one was riding."""
        self._coming = b""
        """Of a request that is for the lane, as much as has come."""
        self._handed: HandedOver | None = None
        self._idle_until = NEVER
        self._last = False
        """Whether the connection is to be closed after the request that rides."""

    @property
    def default_headers(self) -> Headers:
        return self.server_state.default_headers

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # it was on its way, within TLS
        if self._riding is not None:
            self._behind += data
            self.flow.pause_reading()
            return
        self._idle_until = NEVER
        if self._coming:
            data, self._coming = self._coming + data, b""
        if not (data.startswith(LINE) and self._is_at_a_beginning):
            super().data_received(data)
            return
        length = self._lane.length_of(data)
        if length > len(data):
            self._coming = data
            self._unset_keepalive_if_required()
            self._await(body=True, seconds=self._guard.body_seconds)
        elif length < len(data):
            super().data_received(data)
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """A whole request."""
        taken = self._lane.take(self, data)
        if taken is None or isinstance(taken, HandedOver):
            self._pass_on(taken, data)
            return
        self._unset_keepalive_if_required()
        self._await_nothing()
        self._riding = taken

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_off_the_lane()  # a request that never came to its end leaves its receipt, too
        super().connection_lost(exc)
        self._get_off()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._riding is not None:
            self._riding.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._riding is not None:
            self._riding.resume()

    # -- what uvicorn calls

    def on_headers_complete(self) -> None:
        if self._handed is not None:
            scope: Any = self.scope
            scope[HANDED_OVER] = self._handed
        super().on_headers_complete()
        self._handed = None

    def shutdown(self) -> None:
        self._take_off_the_lane()
        if self._riding is None:
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

    # -- what a rider calls

    def hand_over(self, handed: HandedOver, data: bytes) -> None:
        """The request, whose bytes are `data`, goes on in the ordinary way."""
        self._riding = None
        self._pass_on(handed, data)
        if self._last:
            self.shutdown()
        self._catch_up()

    def freed(self, *, close: bool = False) -> None:
        """The request is over: the next one may come, or the connection is closed."""
        if self._riding is None:
            return
        self._riding = None
        self.server_state.total_requests += 1
        if close or self._last:
            self.transport.close()
            return
        self._idle_until = self.loop.time() + self._guard.idle_seconds
        self._catch_up()

    def _get_off(self) -> None:
        riding, self._riding = self._riding, None
        if riding is not None:
            riding.gone()

    def _pass_on(self, handed: HandedOver | None, data: bytes) -> None:
        """To uvicorn, with what has been done of it."""
        self._handed = handed
        super().data_received(data)
        refused, self._handed = self._handed, None
        if refused is not None:
            self._lane.refused(refused)

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
