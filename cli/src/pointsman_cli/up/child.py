"""One supervised process: started, started again when it dies, stopped in bounded time."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pointsman_cli.process_tree import kill_processes, process_tree
from pointsman_cli.processes import describe_exit, launch_command
from pointsman_cli.up.plan import Service


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a dead process is started again: doubled each time, and as at first after a calm while."""

    first: float = 0.5
    longest: float = 30.0
    calm: float = 60.0

    def after(self, previous: float, lived: float) -> float:
        if previous == 0 or lived >= self.calm:
            return self.first
        return min(previous * 2, self.longest)


class Child:
    def __init__(self, service: Service, guard: int = -1) -> None:
        """`guard`: the pipe into which each process that is started says its pid; -1: nobody is told."""
        self.service = service
        self._guard = guard
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return self._running().pid

    async def start(self) -> None:
        self.service.log.parent.mkdir(parents=True, exist_ok=True)
        with self.service.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launch_command(self.service.program, self._guard),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.service.environment},
                start_new_session=True,  # a Ctrl-C at the terminal is for us alone
                pass_fds=[self._guard] if self._guard >= 0 else (),
            )
        self._started_at = time.monotonic()

    async def ended(self) -> str:
        """Waits for its end, and returns how it came: "exit code 1", "killed by SIGKILL"."""
        return describe_exit(await self._running().wait())

    async def keep_running(self, say: Callable[[str], None], backoff: Backoff) -> None:
        """Starts it again whenever it dies, until cancelled."""
        delay = 0.0
        while True:
            how = await self.ended()
            delay = backoff.after(delay, lived=time.monotonic() - self._started_at)
            say(f"{self.service.name} died ({how}); starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            await self.start()
            say(f"{self.service.name} was started again (pid {self.pid})")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for it and for all it started after its grace."""
        process = self._running()
        below = process_tree(process.pid)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(self.service.grace):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            kill_processes(below)
        await process.wait()

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, f"{self.service.name} was not started"
        return self._process
