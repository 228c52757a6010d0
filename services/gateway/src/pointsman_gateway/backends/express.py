"""The short way to an engine: where one would be asked at once and by itself, without a coroutine between.

It comes to no other end than `Backends` does. Whatever is not plain sailing (an engine on trial, a second one to hedge
with) is not begun here; what fails before its first token is gone on with there.
"""

import asyncio
from collections.abc import Collection
from contextvars import copy_context
from dataclasses import dataclass
from math import inf
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.backends import failures
from pointsman_gateway.backends.attempt import call_to
from pointsman_gateway.backends.call import Call, Opened
from pointsman_gateway.backends.http1 import Connection, ConnectionFailed, TimedOut
from pointsman_gateway.backends.loading import Loading
from pointsman_gateway.backends.openai_events import EventReader
from pointsman_gateway.backends.stage import Backends, Choice
from pointsman_gateway.domain import Chunks, Decision, Prompt, Request

LONGEST_REFUSAL = 64 * 1024
"""Bytes of an answer that is no stream, after which no more of it is waited for."""


class Posts(Protocol):
    """Speaks to engines, over connections that are kept."""

    def at_hand(self, call: Call) -> Connection | None:
        """A connection that is kept, if there is one."""
        ...

    async def connect(self, call: Call) -> Connection:
        """A new one. Raises ConnectionFailed."""
        ...

    def post(self, call: Call, connection: Connection) -> None:
        """Raises ConnectionFailed."""
        ...

    def told(self, call: Call, error: ConnectionFailed, begun: bool) -> PointsmanError:
        """What has gone wrong, as the caller is told it; `begun`: after the first token."""
        ...

    def refusal(self, call: Call, connection: Connection, body: bytes) -> PointsmanError:
        """Of an answer that is no stream."""
        ...

    def release(self, call: Call, connection: Connection) -> None:
        """All of its answer has been read that is wanted."""
        ...


class Listener(Protocol):
    """Who is told of an answer, and of its end once."""

    @property
    def as_a_whole(self) -> bool:
        """Whether nobody asks in which pieces it came."""
        ...

    def came(self, chunks: Chunks, last: bool) -> None:
        """A part of it, never empty; `last`: its end follows at once."""
        ...

    def ended(self) -> None:
        """All of it has come."""
        ...

    def freed(self) -> None:
        """After `ended`, once nothing of the engine is held any more."""
        ...

    def broke_off(self, error: PointsmanError) -> None:
        """After its first part."""
        ...

    def not_begun(self, failed: "Failed | None") -> None:
        """No part of it came; None: nobody has failed, and it is to be asked for as if it never had been."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """What came of an engine that was asked, before its first token."""

    choice: Choice
    error: PointsmanError


class Express:
    """Of one generation of the configuration."""

    def __init__(
        self, backends: Backends, loading: Loading, posts: Posts | None = None, others: Collection[str] = ()
    ) -> None:
        """Without `posts` nothing goes this way; nor do the paths `others`, with which there is more to be done."""
        self.backends, self.loading = backends, loading
        self._posts = posts
        self._others = frozenset(others)

    def carries(self, decision: Decision) -> bool:
        """Whether the answer of the decision's path could be had this way."""
        return self._posts is not None and decision.path.name not in self._others and not decision.is_buffered

    def ask(self, request: Request, decision: Decision, prompt: Prompt, listener: Listener) -> "Sent | None":
        """None where it takes more; then nothing has happened."""
        assert self._posts is not None
        backends = self.backends
        try:
            choice = backends.choice(request, decision, prompt)
        except PointsmanError:
            return None  # what is wrong is said where it is tried again
        if not choice.target.cell.breaker.closed or (backends.hedges and choice.others.any_left):
            return None
        return Sent(backends, self._posts, choice, listener)

    async def go_on(self, failed: Failed, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        """What is to be done after a first failure. Raises PointsmanError."""
        return await self.loading.open_from(_AskedOnce(self.backends, failed), request, decision, prompt)


class _AskedOnce:
    """Implements `Opens` around the backends, of which one has failed already."""

    def __init__(self, backends: Backends, failed: Failed) -> None:
        self._backends = backends
        self._failed: Failed | None = failed

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        failed, self._failed = self._failed, None
        if failed is None:
            return await self._backends.open(request, decision, prompt)
        try:
            if isinstance(failed.error, failures.NotResident):
                raise failed.error
            return await self._backends.go_on(failed.choice, failed.error)
        finally:
            del failed  # or it and this frame, which is in its traceback, hold each other


class Sent:
    """One engine at work on one answer."""

    __slots__ = ("_attempt", "_backends", "_begun", "_call", "_choice", "_connecting", "_connection",
                 "_context", "_is_new", "_last", "_listener", "_paused", "_posts", "_reader")  # fmt: skip

    def __init__(self, backends: Backends, posts: Posts, choice: Choice, listener: Listener) -> None:
        self._backends = backends
        self._posts = posts
        self._call = call = call_to(choice.target, choice.asked)
        self._choice = choice
        self._context = copy_context()
        self._listener = listener
        self._reader = EventReader(listener.as_a_whole)
        self._last: Chunks = ()
        self._begun = self._paused = self._is_new = False
        self._connecting: asyncio.Task[Connection] | None = None
        self._connection: Connection | None = None
        self._attempt = backends.asking.attempt(call, choice.target, choice.asked)
        try:
            self._begin()
        except Exception as error:
            self.close(error)
            raise

    @property
    def model(self) -> str:
        """What answers, as the engine knows it."""
        return self._call.model

    def pause(self) -> None:
        """Nothing more can be taken for now; soon the engine has to wait."""
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._news()

    def close(self, why: BaseException) -> None:
        """Nobody wants the rest: stops the engine's work."""
        self._let_go()
        self._attempt.ended(why)

    def _begin(self) -> None:
        connection = self._posts.at_hand(self._call)
        if connection is None:
            self._connect()
        else:
            self._post(connection)

    def _connect(self) -> None:
        self._is_new = True
        self._connecting = asyncio.create_task(self._posts.connect(self._call), context=self._context)
        self._connecting.add_done_callback(self._connected, context=self._context)

    def _connected(self, connecting: "asyncio.Task[Connection]") -> None:
        if self._connecting is not connecting:
            _throw_away(connecting)
            return
        self._connecting = None
        if connecting.cancelled():
            return
        try:
            self._post(connecting.result())
        except ConnectionFailed as error:
            self._fail(self._posts.told(self._call, error, begun=False))
        except Exception as error:  # what nobody foresaw is told by who does it again
            self._let_go()
            self._attempt.ended(error)
            self._listener.not_begun(None)
        finally:
            del connecting  # or it and this frame, which is in its traceback, hold each other

    def _post(self, connection: Connection) -> None:
        self._connection, call = connection, self._call
        self._posts.post(call, connection)
        connection.limit(inf, min(self._backends.clock() + call.timeouts.first_token, call.deadline))
        connection.on_news = self._news

    def _let_go(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.close()

    def _news(self) -> None:
        connection = self._connection
        if self._paused or connection is None:
            return
        if connection.status == 200:
            self._read(connection)
        elif connection.failure is not None:
            self._lost(connection, connection.failure)
        elif connection.status and (connection.complete or connection.unread > LONGEST_REFUSAL):
            self._fail(self._posts.refusal(self._call, connection, connection.taken()))

    def _read(self, connection: Connection) -> None:
        piece, reader = connection.taken(), self._reader
        chunks = reader.read(piece)
        if chunks:
            self._hand_on(connection, chunks, reader.done)
        if reader.failure:
            self._fail(failures.broke_off(self._call, reader.failure))
        elif reader.done:
            try:
                self._listener.ended()  # first of all: the caller waits for it
            finally:
                self._posts.release(self._call, connection)
                self._attempt.ended(None, self._last)
            self._listener.freed()
        elif connection.failure is not None:
            self._lost(connection, connection.failure)
        elif connection.complete:
            self._fail(failures.broke_off(self._call, "the stream ended without [DONE]"))

    def _hand_on(self, connection: Connection, chunks: Chunks, last: bool) -> None:
        self._last = chunks
        if self._begun:
            self._attempt.goes_on()
        else:
            self._begun = True
            self._backends.budget.asked()
            self._attempt.began()
            if not last:
                connection.limit(self._call.timeouts.gap, self._call.deadline)
        self._listener.came(chunks, last)

    def _lost(self, connection: Connection, failure: ConnectionFailed) -> None:
        if self._is_new or connection.status or isinstance(failure, TimedOut):
            self._fail(self._posts.told(self._call, failure, self._begun))
        else:  # it was closed while it rested, as our request went out: nothing has been done yet
            self._let_go()
            self._connect()

    def _fail(self, error: PointsmanError) -> None:
        """As `Asking` does."""
        self._let_go()
        asking, choice = self._backends.asking, self._choice
        told = asking.not_there(error, choice.target) if isinstance(error, failures.NotThere) else error
        self._attempt.ended(told)
        if self._begun:
            self._listener.broke_off(told)
        else:
            self._backends.budget.asked()
            self._listener.not_begun(Failed(choice, told))


def _throw_away(connecting: "asyncio.Task[Connection]") -> None:
    """It was there in the very moment in which nobody wanted it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
