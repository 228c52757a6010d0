"""A program in its own process that can be suspended, resumed, killed and restarted."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]


class Process:
    """One program; its output goes to a file, from which the start is detected."""

    def __init__(self, program: Sequence[str], settings: Mapping[str, str], log: Path, started: str) -> None:
        """`started` is the regular expression of the output that shows a complete start."""
        self._program = program
        self._settings = settings
        self._log = log
        self._started = re.compile(started)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, within: float = 180.0) -> tuple[str, ...]:
        """Starts it and returns the groups of the `started` match."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": paths, **self._settings}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._program, env=environment, stdout=log, stderr=asyncio.subprocess.STDOUT
            )
        async with asyncio.timeout(within):
            while True:
                found = self._started.search(self.words)
                if found:
                    return found.groups()
                assert self._process.returncode is None, self.words
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def words(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def hang(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kills it if it is running."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def signal(self, which: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(which)

    async def ended(self, within: float) -> int:
        """Returns the exit code."""
        assert self._process
        return await asyncio.wait_for(self._process.wait(), within)
