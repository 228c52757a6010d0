"""A program in a process of its own, which can hang, go on, be killed, and be started again."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]


class Process:
    """Its words go to a file, from which its start is read."""

    def __init__(self, program: Sequence[str], settings: Mapping[str, str], log: Path, started: str) -> None:
        """`started` is the regular expression of the words by which it tells that it is up."""
        self._program = program
        self._settings = settings
        self._log = log
        self._started = re.compile(started)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, within: float = 60.0) -> tuple[str, ...]:
        """The groups of what it said when it was up."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": paths, **self._settings}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._program, env=environment, stdout=log, stderr=asyncio.subprocess.STDOUT
            )
        async with asyncio.timeout(within):
            while True:
                said = self._started.search(self.words)
                if said:
                    return said.groups()
                assert self._process.returncode is None, self.words
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """0 before its first start."""
        return self._process.pid if self._process else 0

    @property
    def words(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def hang(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Where it runs still."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def signal(self, which: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(which)

    async def ended(self, within: float) -> int:
        """Its exit code."""
        assert self._process
        return await asyncio.wait_for(self._process.wait(), within)
