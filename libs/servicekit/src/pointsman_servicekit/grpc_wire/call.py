"""One call: for a servicer its context, for its connection one of the streams."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from pointsman_servicekit.grpc_wire.heads import BEGINNING, OK, Head, Metadata, block_of, status_block
from pointsman_servicekit.grpc_wire.inbox import Inbox
from pointsman_servicekit.grpc_wire.messages import BadMessage, MessageReader, with_prefix
from pointsman_servicekit.grpc_wire.outgoing import NOTHING

if TYPE_CHECKING:
    from pointsman_servicekit.grpc_wire.streams import Streams

log = logging.getLogger(__name__)

WINDOW = 256 * 1024
"""Bytes that a client may send on a stream beyond what has been read of it."""
TIME_TO_TAKE = 60.0
"""Seconds in which a client takes an answer that is whole, where it has set no deadline."""


class Status(Protocol):
    """As `grpc_status.rpc_status.to_status` makes it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Metadata


class Call:
    """Implements what our servicers, and those of health and reflection, use of `grpc.aio.ServicerContext`."""

    __slots__ = (
        "_begun",
        "_clock",
        "_code",
        "_details",
        "_handler",
        "_head",
        "_inbox",
        "_streams",
        "_task",
        "_timer",
        "_trailing",
        "_until",
        "_works",
        "half_closed",
        "id",
        "over",
        "pending",
        "room",
        "trailers",
        "waiting",
        "window",
    )

    def __init__(
        self,
        streams: "Streams",
        number: int,
        head: Head,
        handler: Any,  # a grpc.RpcMethodHandler, of whose behaviours it has one
    ) -> None:
        self.id = number
        self.window = streams.first_window
        """Bytes that the client still takes on this stream."""
        self.room = WINDOW
        """Bytes that the client may still send."""
        self.half_closed = False
        """The client has said all."""
        self.over = False
        """All has been said to it, or it wants no more."""
        self.pending: memoryview = NOTHING
        """Of the answer, what the client does not take yet."""
        self.trailers: bytes | None = None
        """What follows it."""
        self.waiting: asyncio.Future[None] | None = None
        """Set once nothing is pending."""
        self._streams = streams
        self._head = head
        self._handler = handler
        self._clock = streams.clock
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._inbox = Inbox(MessageReader(head.encoding, streams.limits.message_bytes), streams)
        self._task: asyncio.Task[None] | None = None
        self._works = False
        """It can be cancelled: a task that is, before it has begun, never does, and never ends what it has to."""
        self._begun = False
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        if head.timeout is not None:
            self._until = self._clock() + head.timeout
            self._timer = streams.loop.call_at(self._until, self._too_late)
        elif not handler.request_streaming:
            self._timer = streams.loop.call_later(streams.limits.message_seconds, self._too_late)

    # -- what the connection tells

    def opened(self) -> None:
        """The client has begun; whoever reads several messages begins with it."""
        if self._handler.request_streaming:
            self._run()

    def came(self, data: bytes) -> None:
        """A part of what the client says."""
        if self.over:
            return
        inbox, reads_several = self._inbox, self._handler.request_streaming
        try:
            inbox.put(data)
        except BadMessage as bad:
            self.refuse(bad.status, str(bad))
            return
        if not reads_several and inbox and (len(inbox) > 1 or inbox.unfinished):
            self.refuse(grpc.StatusCode.INTERNAL, "more than one message came; one is read")
        elif not self.half_closed and not (reads_several and inbox):
            self._streams.make_room(self)

    def ended(self) -> None:
        """The client has said all."""
        if self._inbox.unfinished:
            self.refuse(grpc.StatusCode.INTERNAL, "the last message is cut off")
        elif self._handler.request_streaming:
            self._inbox.close()
        elif self._inbox:
            if self._until is None:
                self._unwatch()  # from here on it is the servicer that takes its time
            self._run()
        else:
            self.refuse(grpc.StatusCode.INTERNAL, "no message came; one is read")

    def cut(self) -> None:
        """The client is gone, or wants no more."""
        ends_now, self.over = not self.over, True
        self._release()
        self._unwatch()
        if ends_now:
            self._stop()

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """Ends with this, whatever is being done for it; unless all has been said already."""
        if not self.over:
            self._end(code, details)
            self._stop()

    def all_taken(self) -> None:
        """The client has all of the answer."""
        self._unwatch()

    # -- what the servicer asks

    def invocation_metadata(self) -> Metadata:
        return self._head.metadata

    def time_remaining(self) -> float | None:
        """Seconds; None where the client has set no deadline."""
        return None if self._until is None else max(0.0, self._until - self._clock())

    def peer(self) -> str:
        return self._streams.peer

    def code(self) -> grpc.StatusCode | None:
        """With which it ends, once that is known."""
        return self._code

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Before anything else is written."""
        self._still_there()
        if self._begun:
            raise grpc.aio.UsageError("the answer has begun already")
        block = BEGINNING + block_of(metadata)
        self._begun = True
        self._send_headers(block)

    async def write(self, message: Any) -> None:
        """Returns once the client takes it. Raises UsageError where the call has ended."""
        self._still_there()
        if not self._begun:
            self._begun = True
            self._send_headers(BEGINNING)
        out = self._streams.out
        out.send(self, with_prefix(self._serialized(message)))
        if out.must_wait(self):
            await out.taken(self)
            self._still_there()

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` behind the last one."""
        inbox = self._inbox
        while not inbox:
            if inbox.full:
                return grpc.aio.EOF
            self._still_there()
            await inbox.filled()
        message = self._one()
        if not inbox and not self.half_closed:
            self._streams.make_room(self)
        return message

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """Raises AbortError, which ends the call."""
        self._code, self._details = code, details
        self._trailing = tuple(trailing_metadata) or self._trailing
        raise grpc.aio.AbortError("the servicer ends the call")

    async def abort_with_status(self, status: Status) -> None:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def _send_headers(self, block: bytes) -> None:
        out = self._streams.out
        out.say(out.headers(self.id, 0, block))

    def _still_there(self) -> None:
        if self.over:
            raise grpc.aio.UsageError("the call has ended")

    # -- what is done

    def _stop(self) -> None:
        if self._task is not None and self._works:
            self._task.cancel()

    def _run(self) -> None:
        self._streams.at_work += 1
        self._task = self._streams.loop.create_task(self._answer())

    async def _answer(self) -> None:
        self._works = True
        try:
            if not self.over:
                await self._served()
        except grpc.aio.AbortError:
            self._end(self._code or grpc.StatusCode.UNKNOWN, self._details, self._trailing)
        except asyncio.CancelledError:
            if not self.over:
                self._end(grpc.StatusCode.CANCELLED, "the work was cancelled")
        except Exception:
            if not self.over:
                log.exception("a servicer failed without saying what with")
                self._end(grpc.StatusCode.UNKNOWN, "the servicer failed")
        finally:
            self._task = None
            self._streams.at_work -= 1

    async def _served(self) -> None:
        handler = self._handler
        asked: Any = self._requests() if handler.request_streaming else self._one()
        if not handler.response_streaming:
            serve = handler.stream_unary if handler.request_streaming else handler.unary_unary
            self._end_well(with_prefix(self._serialized(await serve(asked, self))))
            return
        serve = handler.stream_stream if handler.request_streaming else handler.unary_stream
        if isasyncgenfunction(serve):
            responses = serve(asked, self)
            try:
                async for response in responses:
                    await self.write(response)
            finally:
                await responses.aclose()
        else:  # it writes by itself
            await serve(asked, self)
        self._end_well()

    def _one(self) -> Any:
        """Ends the call where it cannot be read, and raises CancelledError."""
        deserialize = self._handler.request_deserializer
        try:
            message = self._inbox.take()
            return deserialize(message) if deserialize else message
        except BadMessage as bad:
            self._end(bad.status, str(bad))
        except Exception:  # whichever its serialization has
            self._end(grpc.StatusCode.INTERNAL, "the message cannot be read")
        if asyncio.current_task() is not self._task:
            self._stop()
        raise asyncio.CancelledError

    def _serialized(self, message: Any) -> bytes:
        serialize = self._handler.response_serializer
        serialized: bytes = serialize(message) if serialize else message
        return serialized

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    def _end_well(self, data: bytes = b"") -> None:
        if not self.over:
            trailers = block_of(self._trailing) + OK
            self._code = grpc.StatusCode.OK
            self._finish(b"" if self._begun else BEGINNING, data, trailers)

    def _end(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        if self.over:
            return
        self._code, self._details = code, details
        try:
            beside = block_of(trailing)
        except ValueError:
            log.exception("what was to be said beside an error cannot be said")
            beside = b""
        # Without an answer, all is said at once.
        self._finish(b"", b"", (b"" if self._begun else BEGINNING) + beside + status_block(code, details))

    def _finish(self, beginning: bytes, data: bytes, trailers: bytes) -> None:
        self.over = True
        self._release()
        self._streams.finish(self, beginning, data, trailers)
        if not self.pending:
            self._unwatch()
        elif self._timer is None:
            self._timer = self._streams.loop.call_later(TIME_TO_TAKE, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        late = grpc.StatusCode.DEADLINE_EXCEEDED
        was_pending, self.pending = self.pending, NOTHING
        if not self.over:
            self.refuse(late, "the deadline has passed")
        elif was_pending:
            self._streams.close(self, status_block(late, "the answer was not taken in time"))

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        """Nobody reads any more, nor waits for the client to."""
        self._inbox.empty()
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)
