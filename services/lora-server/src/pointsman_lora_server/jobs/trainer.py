"""The trainer as a process that cannot outlive us: started, heard to its end, stopped."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pointsman_lora_server
from pointsman_lora_server.engine.leashed import SupervisedChild

MODULE = "pointsman_lora_server.training"
GRACE = 20.0
"""Seconds from SIGTERM to SIGKILL."""
LONGEST_LINE = 1 << 20  # bytes

_OnLine = Callable[[str], None]


def sources(folder: Path) -> Path:
    """A folder for PYTHONPATH that holds our package and nothing of what is installed beside it: the engine's
    environment has its own versions of that."""
    beside = folder / ".sources"
    beside.mkdir(parents=True, exist_ok=True)
    link, package = beside / "pointsman_lora_server", Path(pointsman_lora_server.__file__).parent
    if not link.is_symlink() or link.readlink() != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package)
    return beside


def environment(ours: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Ours without our own settings, among which there are secrets."""
    kept = {name: value for name, value in ours.items() if not name.startswith("POINTSMAN_")}
    return kept | {"PYTHONPATH": str(sources(folder)), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Trainer:
    """Lives from `start` until `wait` returns; then nothing of it is left."""

    def __init__(self, leashed: SupervisedChild) -> None:
        self._leashed = leashed
        self._asked = asyncio.Event()

    @classmethod
    async def start(cls, command: Sequence[str], variables: Mapping[str, str], events: Path) -> "Trainer":
        """It appends to the file of events itself: what lay in a pipe would be lost with us. Raises OSError."""
        with events.open("ab") as written:
            return cls(await SupervisedChild.start(command, variables, written, asyncio.subprocess.PIPE, LONGEST_LINE))

    @property
    def group(self) -> int:
        """Its process group, for those who want to see it."""
        return self._leashed.group

    async def wait(self, on_error_line: _OnLine) -> int:
        """Until its end; its exit code, 128 + a signal where one ended it. Cancelled, it is stopped first."""
        process = self._leashed.process
        assert process.stderr is not None
        reading = asyncio.create_task(_each(process.stderr, on_error_line))
        insisting = asyncio.create_task(self._insist())
        try:
            await asyncio.shield(reading)
            return await process.wait()
        finally:
            insisting.cancel()
            await asyncio.shield(self._end(reading))

    def stop(self) -> None:
        """Asks it to end, cleanly; `wait` sees to it that it does."""
        self._leashed.terminate()
        self._asked.set()

    async def _insist(self) -> None:
        await self._asked.wait()
        await asyncio.sleep(GRACE)
        self._leashed.kill()

    async def _end(self, reading: "asyncio.Task[None]") -> None:
        process = self._leashed.process
        if process.returncode is None:
            self.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await process.wait()
        self._leashed.kill()
        await process.wait()
        await asyncio.gather(reading, return_exceptions=True)
        self._leashed.let_go()


async def _each(stream: asyncio.StreamReader, on_line: _OnLine) -> None:
    async for line in stream:
        if text := line.decode(errors="replace").rstrip():
            on_line(text)
