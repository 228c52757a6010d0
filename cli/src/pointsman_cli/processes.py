"""Starts other programs as child processes, which on Linux end when this process ends; finds and kills descendants.

The descendants are read from Linux's /proc. A process is identified by its pid and start time, since the system uses a
pid again.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli import launcher

STOP_GRACE_SECONDS = 20.0  # seconds that an interrupted program gets for cleanup
_MAX_LINE_BYTES = 1024 * 1024  # maximum bytes of one line of output

_OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a program ended: its exit code (-N if signal N ended it), and the last line of its standard error, or ""."""

    code: int  # the exit code; -N if signal N ended the process
    last_error: str  # the last line of its standard error, without "error: "; empty if there is none

    @property
    def reason(self) -> str:
        """Returns `last_error`, or if it is empty, a text such as "exit code 1" or "killed by SIGKILL"."""
        return self.last_error or describe_exit(self.code)


def launch_command(program: Sequence[str], reaper_pipe: int = -1) -> list[str]:
    """Returns a command line that runs `program` and, on Linux, sends it SIGTERM if this process dies, even by kill -9.

    The command must be started from the main thread, since it ends with the thread that started it. `reaper_pipe` is
    the descriptor of a pipe into which the child first writes its pid, or -1 for none; the caller must let the child
    inherit the descriptor.
    """
    launcher_arguments = (str(int(signal.SIGTERM)), str(os.getpid()), str(reaper_pipe))
    return [sys.executable, "-I", str(Path(launcher.__file__)), *launcher_arguments, *program]


def describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _ignore(line: str) -> None:
    pass


async def run_to_end(
    program: Sequence[str], environment: Mapping[str, str], on_line: _OnLine, on_error_line: _OnLine = _ignore
) -> ProcessEnd:
    """Runs a program until it ends; `environment` is added to the variables of this process.

    `on_line` gets each line of its standard output, `on_error_line` each line of its standard error, both stripped and
    without empty lines. `on_error_line` does not get lines that begin with "error: ". The last line of standard error
    is in the result. On cancellation, the program gets SIGINT. When it has ended, or after STOP_GRACE_SECONDS, SIGKILL
    ends the program and its descendants if they still run.

    A program that cannot be executed is reported in the result. Raises ValueError if a line has more than
    _MAX_LINE_BYTES bytes.
    """
    process = await asyncio.create_subprocess_exec(
        *launch_command(program),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,  # Ctrl-C at the terminal reaches only us, and we forward it once
        limit=_MAX_LINE_BYTES,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: deque[str] = deque(maxlen=1)

    def on_error(line: str) -> None:
        errors.append(line.removeprefix("error: "))
        if not line.startswith("error: "):  # the caller reports this line itself, from ProcessEnd
            on_error_line(line)

    reading = asyncio.gather(_each_line(process.stdout, on_line), _each_line(process.stderr, on_error))
    try:
        await asyncio.shield(reading)  # keep reading its last output while it is being stopped
        code = await process.wait()
    except BaseException:
        await _stop(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        raise
    return ProcessEnd(code, errors[0] if errors else "")


async def _each_line(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in stream:
        text = line.decode(errors="replace").strip()
        if text:
            on_line(text)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    descendants = process_tree(process.pid)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        kill_processes(descendants)
    await process.wait()


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine, identified by its pid and start time, so that a reused pid does not match it."""

    pid: int
    started: int  # clock ticks since boot; unique together with the pid


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    parent: int
    state: str


def process_tree(root: int) -> tuple[Process, ...]:
    """Returns the process with pid `root`, followed by all its descendants, including those in other sessions.

    Returns an empty tuple if the process does not exist.
    """
    stats = [stat for entry in Path("/proc").glob("[0-9]*") if (stat := _read(int(entry.name))) is not None]
    children: dict[int, list[Process]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.process)
    found = [stat.process for stat in stats if stat.process.pid == root]
    for process in found:  # the list grows during the iteration
        found.extend(children.get(process.pid, ()))
    return tuple(found)


def alive_processes(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Returns the processes that still run; zombies do not count."""
    return tuple(process for process in processes if _is_running(process))


def kill_processes(processes: Iterable[Process]) -> None:
    for process in alive_processes(processes):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _is_running(process: Process) -> bool:
    stat = _read(process.pid)
    return stat is not None and stat.process == process and stat.state not in "ZX"


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the process name before it may contain any character, see proc(5)
    return _Stat(Process(pid, started=int(fields[19])), parent=int(fields[1]), state=fields[0])
