"""Starting other programs: as children that go when we go, and to their end."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli import launcher, process_tree

STOP_GRACE = 20.0  # seconds that an interrupted program gets to clean up
_LINE_LIMIT = 1024 * 1024  # bytes of one line of output

_OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    last_error: str  # the last line that it wrote to standard error

    @property
    def how(self) -> str:
        return self.last_error or describe_exit(self.code)


def launched(program: Sequence[str], guard: int = -1) -> list[str]:
    """The command line that starts `program` so that it gets SIGTERM when this process dies, even by kill -9.

    `guard`: a pipe, which must be passed on, into which it says its pid first.
    """
    launching = (str(Path(launcher.__file__)), str(int(signal.SIGTERM)), str(os.getpid()), str(guard))
    return [sys.executable, "-I", *launching, *program]


def describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _ignore(line: str) -> None:
    pass


async def run_to_end(
    program: Sequence[str], environment: Mapping[str, str], on_line: _OnLine, on_error_line: _OnLine = _ignore
) -> Ended:
    """Runs `program` with `environment` added to ours; the callbacks get each line of its output and of its errors.

    Cancelling stops it with SIGINT, and with SIGKILL after `STOP_GRACE`.
    """
    process = await asyncio.create_subprocess_exec(
        *launched(program),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,  # a Ctrl-C at the terminal comes to us, and we pass it on once
        limit=_LINE_LIMIT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: deque[str] = deque(maxlen=1)

    def on_error(line: str) -> None:
        errors.append(line.removeprefix("error: "))
        if not line.startswith("error: "):  # that one is told at the end
            on_error_line(line)

    reading = asyncio.gather(_each_line(process.stdout, on_line), _each_line(process.stderr, on_error))
    try:
        await asyncio.shield(reading)  # while it is being stopped, its last words are still read
        code = await process.wait()
    except BaseException:
        await _stop(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        raise
    return Ended(code, errors[0] if errors else "")


async def _each_line(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in stream:
        text = line.decode(errors="replace").strip()
        if text:
            on_line(text)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    below = process_tree.tree(process.pid)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_GRACE):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        process_tree.kill(below)
    await process.wait()
