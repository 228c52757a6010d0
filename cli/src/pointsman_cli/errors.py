"""The errors that end a command with one line of text, and the function that turns Ctrl-C into such an error."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from pointsman_servicekit.process import wait_for_stop_signal

T = TypeVar("T")


class CommandError(Exception):
    """A command failed, for the reason in the message; the base class of this module's other errors."""

    exit_code = 1


class UsageError(CommandError):
    """An argument of the command line, an environment variable or an input file is wrong."""

    exit_code = 2


class Refused(CommandError):
    """The gateway answered a request with an error, or ended a streamed answer with an error."""

    def __init__(self, message: str, code: str, retry_after: float | None = None) -> None:
        """Takes the message and the code of the gateway's error, such as "unknown_model".

        The code is "http_" and the HTTP status, such as "http_503", if the response has none. `retry_after` is the
        number of seconds to wait if a rate limit was exceeded; None for other errors, or if the gateway does not say.
        """
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Unreachable(CommandError):
    """No connection to the gateway could be opened."""


class Interrupted(CommandError):
    """The user or the system ended the command by Ctrl-C or SIGTERM."""

    exit_code = 130


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine and returns its result. The first Ctrl-C or SIGTERM cancels it; a second one ends the process.

    Raises what the coroutine raises; in place of asyncio.CancelledError after a signal, raises Interrupted.
    """
    return asyncio.run(_run_until_signal(work))


async def _run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    signalled = asyncio.ensure_future(wait_for_stop_signal())
    await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
    if not signalled.done():
        signalled.cancel()
        with suppress(asyncio.CancelledError):
            await signalled
        return await task
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(f"interrupted ({signalled.result().name})") from None
