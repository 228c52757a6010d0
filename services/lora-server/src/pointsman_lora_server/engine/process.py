"""One life of the engine: a process group of its own, started, read, and ended whole."""

import asyncio
import logging
import os
from collections import deque

from pointsman_lora_server.engine.command import DRAIN, EngineCommand
from pointsman_lora_server.engine.leashed import SupervisedChild

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
        leashed: SupervisedChild,
        pipe: asyncio.ReadTransport,
        output: asyncio.StreamReader,
    ) -> None:
        """`pipe` feeds `output`, the engine's log."""
        self._leashed = leashed
        self._pipe = pipe
        self._last_lines: deque[str] = deque(maxlen=_REMEMBERED)
        self._reading = asyncio.create_task(self._read(output), name="engine's log")

    @classmethod
    async def start(cls, command: EngineCommand) -> "EngineProcess":
        # A pipe of our own: with asyncio's, waiting for the process would also wait for all that hold its output, and
        # when vLLM's API server is killed its children live on.
        output_end, written = os.pipe()
        try:
            leashed = await SupervisedChild.start(
                command.arguments, command.environment, written, asyncio.subprocess.STDOUT
            )
        except BaseException:
            os.close(output_end)
            raise
        finally:
            os.close(written)
        output, loop = asyncio.StreamReader(), asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(output_end, "rb")
        )
        log.info("engine started, process group %d: %s", leashed.group, " ".join(command.arguments))
        return cls(leashed, pipe, output)

    @property
    def group(self) -> int:
        """Its process group, for those who want to see it."""
        return self._leashed.group

    async def wait(self) -> int:
        """Waits for its end, and clears away what it leaves; returns its exit code (128 + a signal)."""
        code = await self._leashed.process.wait()
        self._leashed.kill()
        self._leashed.let_go()
        await asyncio.wait({self._reading}, timeout=_LAST_WORDS)
        self._pipe.close()
        return code

    async def stop(self, grace: float = GRACE) -> int:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        self._leashed.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._leashed.process.wait()
        except TimeoutError:
            log.warning("the engine did not end within %g s; it is killed", grace)
            self._leashed.kill()
        return await self.wait()

    def kill(self) -> None:
        self._leashed.kill()

    def last_words(self) -> str:
        """The line of its log that says best why it ended."""
        lines = [line for line in self._last_lines if line]
        errors = [line for line in lines if "Error" in line or "error" in line]
        return (errors or lines or [""])[-1][:300]

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
