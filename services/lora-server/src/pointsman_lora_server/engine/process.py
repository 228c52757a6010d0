"""One life of the engine: a process group of its own, started, read, and ended whole."""

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

from pointsman_lora_server.engine import leash
from pointsman_lora_server.engine.command import DRAIN, Command

log = logging.getLogger(__name__)
engine_log = logging.getLogger("engine")

GRACE = DRAIN + 10
"""Seconds from SIGTERM to SIGKILL: vLLM drains, then needs some more to end."""

_LONGEST_LINE = 4096  # bytes; a longer one is told in pieces
_REMEMBERED = 50  # lines
_LAST_WORDS = 2.0  # seconds to read what was written before the end


class EngineProcess:
    """Lives from `start` until `wait` or `stop` returns; then nothing of it is left."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        hand: int,
        pipe: asyncio.ReadTransport,
        output: asyncio.StreamReader,
    ) -> None:
        """`hand` is our end of the leash, a file descriptor; `pipe` feeds `output`, the engine's log."""
        self._process = process
        self._hand: int | None = hand
        self._pipe = pipe
        self._last_lines: deque[str] = deque(maxlen=_REMEMBERED)
        self._reading = asyncio.create_task(self._read(output), name="engine's log")

    @classmethod
    async def start(cls, command: Command) -> "EngineProcess":
        # Pipes of our own: with asyncio's, waiting for the process would also wait for all that hold its output, and
        # when vLLM's API server is killed its children live on.
        leash_end, hand = os.pipe()
        output_end, written = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(Path(leash.__file__)), *command.arguments),
                stdin=leash_end,
                stdout=written,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(command.environment),
                start_new_session=True,
            )
        except BaseException:
            os.close(hand)
            os.close(output_end)
            raise
        finally:
            os.close(leash_end)
            os.close(written)
        output, loop = asyncio.StreamReader(), asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(output_end, "rb")
        )
        log.info("engine started, process group %d: %s", process.pid, " ".join(command.arguments))
        return cls(process, hand, pipe, output)

    @property
    def group(self) -> int:
        """Its process group, for those who want to see it."""
        return self._process.pid

    async def wait(self) -> int:
        """Waits for its end, and clears away what it leaves; returns its exit code (128 + a signal)."""
        code = await self._process.wait()
        self._kill_group()
        self._let_go()
        await asyncio.wait({self._reading}, timeout=_LAST_WORDS)
        self._pipe.close()
        return code

    async def stop(self, grace: float = GRACE) -> int:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            log.warning("the engine did not end within %g s; it is killed", grace)
            self._kill_group()
        return await self.wait()

    def kill(self) -> None:
        self._kill_group()

    def last_words(self) -> str:
        """The line of its log that says best why it ended."""
        lines = [line for line in self._last_lines if line]
        errors = [line for line in lines if "Error" in line or "error" in line]
        return (errors or lines or [""])[-1][:300]

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _let_go(self) -> None:
        if self._hand is not None:
            os.close(self._hand)
            self._hand = None

    async def _read(self, output: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await output.read(_LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line)
        self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._last_lines.append(text)
            engine_log.info("%s", text)
