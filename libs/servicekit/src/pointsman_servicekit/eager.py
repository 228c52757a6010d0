"""Coroutines that run without an asyncio task until they have to wait, for work that mostly never waits.

`EagerRun` runs a coroutine at once, as a call of its starter. When the coroutine has to wait, there are two cases:

* It awaits a `Signal`: no task is made. The call of `Signal.set` runs the coroutine on, up to its next wait.
* It awaits anything else: the rest of the coroutine becomes an asyncio task.

Python 3.12 has eager tasks, which also start at once; but after a wait the event loop has to resume them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import CoroutineType
from typing import Any, cast


class Signal:
    """An event for which one coroutine waits.

    If the coroutine runs in an `EagerRun` without a task, `set` continues it at once, and returns when it waits again
    or ends.
    """

    __slots__ = ("_is_set", "_resume")

    def __init__(self) -> None:
        self._is_set = False
        self._resume: Callable[[], None] | None = None

    def set(self) -> None:
        self._is_set = True
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def clear(self) -> None:
        self._is_set = False

    def __await__(self) -> Generator[Any, None, None]:
        if self._is_set:
            return
        if EagerRun.current is not None:
            yield self
            return
        future = asyncio.get_running_loop().create_future()
        self._resume = lambda: None if future.done() else future.set_result(None)
        try:
            yield from future
        finally:
            self._resume = None


class EagerRun:
    """Runs one coroutine without a task, in a copy of the context (`contextvars`) in which this object was made.

    The coroutine must not raise an exception, since nobody awaits its result. Code in it that needs
    `asyncio.current_task`, such as `asyncio.timeout`, must come after `await in_task()`.
    """

    __slots__ = ("_context", "_is_over", "_signal", "_task", "_work")

    current: "EagerRun | None" = None
    """The EagerRun whose coroutine is running at this moment without a task; None if there is none.

    This is a variable of the class, so that `Signal` finds it. A context variable would be copied to the tasks that the
    coroutine creates.
    """

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = cast("CoroutineType[Any, Any, None]", work)
        self._context = copy_context()
        self._signal: Signal | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    @property
    def is_over(self) -> bool:
        return self._is_over

    def start(self) -> None:
        """Runs the coroutine up to its first wait, or to its end."""
        self._step(self._work.send, None)

    def cancel(self) -> None:
        """Raises CancelledError in the coroutine where it waits; does nothing after its end, or if called from within.

        The coroutine must have been started.
        """
        if self._is_over or self._work.cr_running:
            return
        if self._task is not None:
            self._task.cancel()
            return
        signal, self._signal = self._signal, None
        if signal is not None:
            signal._resume = None
        self._step(self._work.throw, asyncio.CancelledError())

    def _resume(self) -> None:
        self._signal = None
        self._step(self._work.send, None)

    def _step(self, step: Callable[[Any], Any], value: Any) -> None:
        before, EagerRun.current = EagerRun.current, self
        try:
            awaited = self._context.run(step, value)
        except StopIteration:
            self._is_over = True
            return
        except BaseException:
            self._is_over = True
            raise
        finally:
            EagerRun.current = before
        if type(awaited) is Signal:
            self._signal = awaited
            awaited._resume = self._resume
        else:
            self._task = asyncio.get_running_loop().create_task(_rest(self._work, awaited), context=self._context)
            self._task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if self._work.cr_frame is None:
            self._is_over = True
        else:  # the task was cancelled before its first turn, so the coroutine has not heard of it
            self._step(self._work.throw, asyncio.CancelledError())


async def in_task() -> None:
    """Makes the rest of the running coroutine an asyncio task; does nothing if it runs in a task already."""
    if EagerRun.current is not None:
        await asyncio.sleep(0)


class _Rest:
    """Awaits `awaited`, at which a coroutine has stopped, and then runs the rest of the coroutine."""

    __slots__ = ("_awaited", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        work, awaited = self._work, self._awaited
        try:
            while True:
                try:
                    result = yield awaited
                except BaseException as error:
                    awaited = work.throw(error)
                else:
                    awaited = work.send(result)
        except StopIteration:
            return


async def _rest(work: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _Rest(work, awaited)
