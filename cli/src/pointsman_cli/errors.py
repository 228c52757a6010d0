"""The errors that end a command with one line of text, and the runner that turns Ctrl-C into one."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from pointsman_servicekit.process import wait_for_stop_signal

T = TypeVar("T")


class CommandError(Exception):
    """A command failed; the message says why and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """An argument or an input file is wrong; nothing was started or changed."""

    exit_code = 2


class Refused(CommandError):
    """The gateway answered with an error, or ended a stream with one."""

    def __init__(self, message: str, code: str, retry_after: float | None = None) -> None:
        """Takes the gateway's error `code`, and the seconds to wait if a rate limit was exceeded (`retry_after`)."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Unreachable(CommandError):
    """No gateway answers at the address that the command was given."""


class Interrupted(CommandError):
    """The command was ended by Ctrl-C or SIGTERM."""

    exit_code = 130


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine and returns its result; the first Ctrl-C or SIGTERM cancels it, a second one ends the process.

    Raises Interrupted after a cancellation, unless the coroutine then returns a value; and the coroutine's errors.
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
