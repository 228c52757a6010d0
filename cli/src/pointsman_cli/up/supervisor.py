"""Starts the services of `pointsman up` as processes, restarts those that die, and stops them within a bounded time."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pointsman_servicekit.process import Backoff

from pointsman_cli.data_dir import is_alive, make_private
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.processes import describe_exit, kill_processes, launch_command, process_tree
from pointsman_cli.up.plan import Service

T = TypeVar("T")

REAPER_GRACE_SECONDS = 35.0  # seconds; longer than the grace of any child


class Child:
    """A service that runs as a child process, and is restarted if it dies."""

    def __init__(self, service: Service, guard: int = -1) -> None:
        """Takes the service to run, and the descriptor of the pipe to the reaper, `guard`; -1: there is no reaper."""
        self.service = service
        self._guard = guard
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int:
        """Returns the process id of the service; if it does not run, that of the process that ran last."""
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
                start_new_session=True,  # Ctrl-C at the terminal must reach `up` only
                pass_fds=[self._guard] if self._guard >= 0 else (),
            )
        self._started_at = time.monotonic()

    async def ended(self) -> str:
        """Waits for the process to end; returns "exit code 1", "killed by SIGKILL" or the like."""
        return describe_exit(await self._running().wait())

    async def keep_running(self, say: Callable[[str], None], backoff: Backoff) -> None:
        """Restarts the process whenever it dies, until cancelled; `say` is called with a message each time.

        `backoff` computes the delay before a restart, which grows while the process dies soon after its start.
        """
        delay = 0.0
        while True:
            how = await self.ended()
            delay = backoff.after(delay, lived=time.monotonic() - self._started_at)
            say(f"{self.service.name} died ({how}); starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            await self.start()
            say(f"{self.service.name} was started again (pid {self.pid})")

    async def stop(self) -> None:
        """Sends SIGTERM to the process, and waits until it ends, at most for the grace period of the service.

        Then sends SIGKILL to the process and its descendants if they still run.
        """
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


class Supervisor:
    """The child processes of `pointsman up`, in the order in which they were started."""

    def __init__(self, guard: int = -1) -> None:
        """Starts without children; `guard` is the descriptor of the pipe to the reaper, -1 without a reaper."""
        self._guard = guard
        self.children: list[Child] = []

    async def start(self, service: Service) -> Child:
        child = Child(service, self._guard)
        await child.start()
        self.children.append(child)
        return child

    async def unless_one_dies(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work` and returns its result, unless a child process dies before `work` ends.

        If a child dies, cancels `work` and raises CommandError with the last line of the child's log. An error of
        `work` is raised unchanged.
        """
        working = asyncio.ensure_future(work)
        endings = {asyncio.ensure_future(child.ended()): child for child in self.children}
        try:
            await asyncio.wait({working, *endings}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            ending, child = next((ending, child) for ending, child in endings.items() if ending.done())
            service = child.service
            reason = f": {last}" if (last := last_line(service.log)) else ""
            raise CommandError(f"{service.name} did not start ({ending.result()}{reason}); its log is {service.log}")
        finally:
            for task in (working, *endings):
                task.cancel()
            await asyncio.gather(working, *endings, return_exceptions=True)

    async def keep_running(self, say: Callable[[str], None], backoff: Backoff) -> None:
        """Restarts each child process that dies, until cancelled; `say` is called with a message each time.

        `backoff` computes the delay before a restart.
        """
        async with asyncio.TaskGroup() as tasks:
            for child in self.children:
                tasks.create_task(child.keep_running(say, backoff))

    async def stop(self, say: Callable[[str], None]) -> None:
        """Stops the children and removes them, the last one first; `say` is called with a message for each.

        If stopping a child fails or is cancelled, the others are stopped before the error is raised.
        """
        while self.children:
            child = self.children.pop()
            say(f"stopping {child.service.name}")
            try:
                await child.stop()
            except BaseException:
                await self.stop(say)
                raise


@asynccontextmanager
async def reaper_running(lock_file: Path, grace: float = REAPER_GRACE_SECONDS) -> AsyncIterator[int]:
    """Locks `lock_file` and starts the reaper, a process that kills leftover children if this process dies.

    Yields the descriptor of a pipe to which children write their pids. The reaper kills children that still run `grace`
    seconds after this process has died. It shares the lock: after a kill -9 of this process, the lock is released only
    when its last child is gone.

    Raises UsageError if another `pointsman up` holds the lock or the file cannot be written, CommandError if the reaper
    does not start.
    """
    with _locked(lock_file) as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb", buffering=0) as to_reaper:
            with os.fdopen(read_end) as its_end:
                guard = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "pointsman_cli.up.reaper", str(grace)),
                    stdin=its_end,
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                )
            assert guard.stdout is not None
            try:
                if await guard.stdout.readline() != b"ready\n":
                    raise CommandError(f"the reaper process did not start (exit code {await guard.wait()})")
                yield to_reaper.fileno()
            finally:
                with suppress(ConnectionError):
                    to_reaper.write(b"done\n")
                await guard.wait()


def refuse_if_locked(lock_file: Path) -> None:
    """Raises UsageError if another `pointsman up` runs, or the lock file cannot be written.

    Call this function before ports are checked, since that check would report only that the ports are in use.
    """
    with _locked(lock_file):
        pass


@contextmanager
def _locked(lock_file: Path) -> Iterator[TextIO]:
    try:
        make_private(lock_file.parent)
        opened = lock_file.open("a+")
    except OSError as error:
        raise UsageError(
            f"{lock_file} cannot be written: {error.strerror}; name another folder with --data-dir"
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UsageError(_already_running(lock.read().strip())) from None
        yield lock


def _already_running(pid: str) -> str:
    if pid.isdigit() and is_alive(int(pid)):
        return f"pointsman is already running (pid {pid}); stop it with Ctrl-C or `kill {pid}`"
    return f"an earlier pointsman (pid {pid}) was killed and its processes are still stopping; try again in a moment"


def last_line(log: Path) -> str:
    """Returns the last non-blank line in the last 4096 bytes of a log file; empty if there is none or no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
