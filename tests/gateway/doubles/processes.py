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
    """A program whose output goes to a file; the output shows when the program has started."""

    def __init__(self, program: Sequence[str], settings: Mapping[str, str], log: Path, started: str) -> None:
        """Takes the command and its environment variables. `started` is a regular expression that matches the output of
        a program that has started.
        """
        self._program = program
        self._settings = settings
        self._log = log
        self._started = re.compile(started)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, within: float = 180.0) -> tuple[str, ...]:
        """Starts the program, and waits until its output matches the regular expression `started`. Returns the match's
        groups. Raises TimeoutError after `within` seconds.
        """
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
        """The process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def words(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def hang(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kills the process if it runs."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def signal(self, which: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(which)

    async def ended(self, within: float) -> int:
        """Waits for the end of the process, and returns its exit code."""
        assert self._process
        return await asyncio.wait_for(self._process.wait(), within)
