"""Starts programs on a core, reads their resource usage, and stops them."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.gateway_load.machine import CannotMeasure, program

STOP_SECONDS = 8.0
"""How long a program may take to stop before it is killed."""
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ManagedProcess:
    """A started program, which leads its own process group."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """CPU seconds of the program and its running children."""
        return sum(int(stat[11]) + int(stat[12]) for stat in self._stats()) / TICKS

    def resident_mb(self) -> float:
        return sum(int(stat[21]) for stat in self._stats()) * PAGE / 1e6

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def tail(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()[-12:]
        return "\n".join(["  " + line[:200] for line in lines])

    async def until_ready(self, answers: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Waits until `answers` returns True. Raises CannotMeasure if the program exits or takes longer than
        `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while not await answers():
            if self.process.poll() is not None:
                raise CannotMeasure(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise CannotMeasure(f"{self.name} does not answer after {timeout_s:g} s:\n{self.tail()}")
            await asyncio.sleep(0.05)

    async def until_written(self, file: Path, timeout_s: float) -> None:
        """Waits for a file that the program writes. Raises CannotMeasure if it is not written in time."""

        is_there = file.exists

        async def is_written() -> bool:
            return is_there()

        await self.until_ready(is_written, timeout_s)

    def end(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # including children that outlived it
        self.process.wait(STOP_SECONDS)

    def _stats(self) -> list[list[str]]:
        """Returns the fields of /proc/PID/stat after the name, for each process of the group, and for each child of
        these: a gateway's workers have groups of their own.
        """
        stats = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError):  # it has exited
                    stats[int(entry)] = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        group = {pid for pid, fields in stats.items() if int(fields[2]) == self.pid}
        return [fields for pid, fields in stats.items() if pid in group or int(fields[1]) in group]


def _inherited() -> dict[str, str]:
    """Returns the environment without settings of Pointsman."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}


class Processes:
    """All started programs; leaving the block stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[ManagedProcess] = []

    def start(
        self, name: str, cores: int | str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        """Starts a program; `cores` is a number or a list such as "0,1".

        Raises NotInstalled if `taskset` is missing, and CannotMeasure if the program cannot be started.
        """
        log = self.folder / f"{name}.log"
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [program("taskset"), "-c", str(cores), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**_inherited(), **(env or {})},
                    cwd=self.folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise CannotMeasure(f"{name} cannot be started: {error}") from error
        running = ManagedProcess(name, process, log)
        self._running.append(running)
        return running

    def end(self, running: ManagedProcess) -> None:
        self._running.remove(running)
        running.end()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._running:
            self._running.pop().end()
