"""Child processes that end when the lora-server ends, even if it is killed. The engine is such a process."""

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pointsman_lora_server.engine import child_launcher
from pointsman_lora_server.engine.command import DRAIN_SECONDS, EngineCommand

log = logging.getLogger(__name__)
engine_log = logging.getLogger("engine")

STOP_SECONDS = DRAIN_SECONDS + 10
"""Seconds between SIGTERM and SIGKILL when the engine is stopped: `DRAIN_SECONDS` for vLLM's last requests, and more
time to exit."""

_MAX_LOG_LINE_BYTES = 4096  # a longer line of the engine's log is split
_MAX_KEPT_LINES = 50
_FINAL_OUTPUT_SECONDS = 2.0  # to read what was written just before the process ended


class SupervisedChild:
    """A child process in its own process group, which is killed if this process dies (see `child_launcher`).

    The owner waits for the end of `process`, then calls `kill`, which ends the other processes of the group, and
    `release`.
    """

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        """`process` is the launcher's process, and `lifeline` the file descriptor of the write end of its stdin. When
        `lifeline` is closed, the launcher kills the process group.
        """
        self.process = process
        self._lifeline: int | None = lifeline

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdout: int | IO[bytes],
        stderr: int,
    ) -> "SupervisedChild":
        """Starts a command through the launcher (see `child_launcher`). `environment` has all variables of the new
        process; `stdout` and `stderr` are as in `subprocess`.

        Raises OSError if no process can be created. If the command's program does not exist, the process ends with exit
        code 127.
        """
        child_end, lifeline = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(Path(child_launcher.__file__)), *command),
                stdin=child_end,
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(child_end)
        return cls(process, lifeline)

    @property
    def group(self) -> int:
        return self.process.pid

    def terminate(self) -> None:
        """Sends SIGTERM to the launcher, which passes it on to the command alone."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Kills all processes of the child's process group; does nothing if none is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def release(self) -> None:
        """Closes this process's end of the pipe that keeps the child alive.

        Call it only when the process has ended, because it would kill a process group that is still running.
        """
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


class EngineProcess:
    """One run of the engine's program, in its own process group.

    Once `wait` or `stop` has returned, no process of the group is left.
    """

    def __init__(self, child: SupervisedChild, pipe: asyncio.ReadTransport, output: asyncio.StreamReader) -> None:
        """Starts a task that logs the engine's output, which is read from `output`; `pipe` is closed at the end."""
        self._child = child
        self._pipe = pipe
        self._last_lines: deque[str] = deque(maxlen=_MAX_KEPT_LINES)
        self._log_reader = asyncio.create_task(self._read(output), name="engine log")

    @classmethod
    async def start(cls, command: EngineCommand) -> "EngineProcess":
        # A separate pipe: with asyncio's own, waiting for the process would also wait for every process that holds its
        # output, and the children of vLLM's API server survive it when it is killed.
        read_end, write_end = os.pipe()
        try:
            child = await SupervisedChild.start(
                command.arguments, command.environment, write_end, asyncio.subprocess.STDOUT
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        output, loop = asyncio.StreamReader(), asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb"))
        log.info("engine started, process group %d: %s", child.group, _printable(command.arguments))
        return cls(child, pipe, output)

    @property
    def group(self) -> int:
        """Returns the id of the engine's process group, for tests and logs."""
        return self._child.group

    async def wait(self) -> int:
        """Waits until the engine ends, kills the remaining processes of its process group, and returns the exit code.

        The exit code is 128 + the signal's number if a signal ended the engine, and -9 if the whole group was killed.
        """
        code = await self._child.process.wait()
        self._child.kill()
        self._child.release()
        await asyncio.wait({self._log_reader}, timeout=_FINAL_OUTPUT_SECONDS)
        self._pipe.close()
        return code

    async def stop(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """Sends the engine SIGTERM, and kills its process group if it has not ended after `timeout_seconds`.

        Returns the exit code: 128 + the signal's number if a signal ended the engine, and -9 if the whole group was
        killed.
        """
        self._child.terminate()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._child.process.wait()
        except TimeoutError:
            log.warning("the engine did not end within %g s; it is killed", timeout_seconds)
            self._child.kill()
        return await self.wait()

    def kill(self) -> None:
        self._child.kill()

    def last_error_line(self) -> str:
        """Returns the last line of the engine's output that contains "error" or "Error", or if there is none, the last
        line.

        Only the last `_MAX_KEPT_LINES` lines that are not blank are searched, and the result is cut to 300 characters.
        The result is empty if the engine has printed nothing.
        """
        lines = [line for line in self._last_lines if line]
        errors = [line for line in lines if "Error" in line or "error" in line]
        return (errors or lines or [""])[-1][:300]

    async def _read(self, output: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await output.read(_MAX_LOG_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LOG_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._log_line(line)
        self._log_line(rest)

    def _log_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._last_lines.append(text)
            engine_log.info("%s", text)


def _printable(arguments: Sequence[str]) -> str:
    """Formats a command on one line; an argument with several lines, such as a chat template, is replaced by "..."."""
    return " ".join("..." if "\n" in argument else argument for argument in arguments)
