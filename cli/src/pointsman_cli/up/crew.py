"""All children of one `pointsman up`, in the order in which they were started."""

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pointsman_cli.data_dir import make_private
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.up.child import Backoff, Child
from pointsman_cli.up.plan import Service

T = TypeVar("T")

GUARD_GRACE = 35.0  # seconds; more than any child's own


class Crew:
    def __init__(self, guard: int = -1) -> None:
        """`guard` as a `Child` takes it."""
        self._guard = guard
        self.children: list[Child] = []

    async def start(self, service: Service) -> Child:
        child = Child(service, self._guard)
        await child.start()
        self.children.append(child)
        return child

    async def unless_one_dies(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work`; raises `CommandError` with its last words where a child dies before that is done."""
        working = asyncio.ensure_future(work)
        endings = {asyncio.ensure_future(child.ended()): child for child in self.children}
        try:
            await asyncio.wait({working, *endings}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            ending, child = next((ending, child) for ending, child in endings.items() if ending.done())
            service = child.service
            said = f": {last}" if (last := last_line(service.log)) else ""
            raise CommandError(f"{service.name} did not start ({ending.result()}{said}); its log is {service.log}")
        finally:
            for task in (working, *endings):
                task.cancel()
            await asyncio.gather(working, *endings, return_exceptions=True)

    async def keep_running(self, say: Callable[[str], None], backoff: Backoff) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for child in self.children:
                tasks.create_task(child.keep_running(say, backoff))

    async def stop(self, say: Callable[[str], None]) -> None:
        """In the reverse order. Each is stopped even where stopping another fails or is cut short."""
        while self.children:
            child = self.children.pop()
            say(f"stopping {child.service.name}")
            try:
                await child.stop()
            except BaseException:
                await self.stop(say)
                raise


@asynccontextmanager
async def guarded(lock_file: Path, grace: float = GUARD_GRACE) -> AsyncIterator[int]:
    """Yields the pipe into which each new child says its pid; raises `Misused` where another `up` holds `lock_file`.

    The lock is the guard's too: after a kill -9 it is free only when the last of the old processes is gone.
    """
    with _locked(lock_file) as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        heard, told = os.pipe()
        with os.fdopen(told, "wb", buffering=0) as to_guard:
            with os.fdopen(heard) as its_end:
                guard = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "pointsman_cli.up.guard", str(grace)),
                    stdin=its_end,
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                )
            assert guard.stdout is not None
            try:
                if await guard.stdout.readline() != b"ready\n":
                    raise CommandError(f"the guard process did not start (exit code {await guard.wait()})")
                yield to_guard.fileno()
            finally:
                with suppress(ConnectionError):
                    to_guard.write(b"done\n")
                await guard.wait()


def refuse_if_locked(lock_file: Path) -> None:
    """Raises `Misused` where another `up` holds it; for saying so before its taken ports are."""
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
    if pid.isdigit() and Path(f"/proc/{pid}").exists():
        return f"pointsman is already running (pid {pid}); stop it with Ctrl-C or `kill {pid}`"
    return f"an earlier pointsman (pid {pid}) was killed and its processes are still stopping; try again in a moment"


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
