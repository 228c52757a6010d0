"""Our end of the process that tries adapters: started, asked one thing at a time, and ended."""

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pointsman_lora_server

log = logging.getLogger(__name__)

LONGEST_LINE = 16 << 20
LAST_WORDS = 2.0  # seconds to read what was written before the end

# Behind the environment's own packages, so that only what it lacks is taken from ours.
_START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module({module!r}, run_name='__main__')"


class WorkerDied(Exception):
    """The process ended, or was ended because it took too long, without an answer."""


class SmokeWorker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=20)
        self._reading = asyncio.create_task(self._read_log(), name="smoke process's log")

    @classmethod
    async def start(cls, command: Sequence[str]) -> "SmokeWorker":
        """Raises OSError where there is no such program."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            env=_environment(os.environ),
        )
        return cls(process)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended: the answer that does not come says so
            await self._process.stdin.drain()

    async def answer(self, seconds: float) -> dict[str, Any]:
        """Raises Died."""
        assert self._process.stdout
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self.end()
            raise WorkerDied(f"no answer within {seconds:g} s") from None
        if not line.endswith(b"\n"):
            await self.end()
            raise WorkerDied(f"it ended with exit code {self._process.returncode}: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.wait({self._reading}, timeout=LAST_WORDS)
        self._reading.cancel()
        if self._process.stdin:
            self._process.stdin.close()

    def _last_words(self) -> str:
        lines = [line for line in self._lines if line]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or [""])[-1][:300]

    async def _read_log(self) -> None:
        assert self._process.stderr
        with suppress(ValueError):  # a line without end
            async for line in self._process.stderr:
                self._lines.append(line.decode(errors="replace").rstrip())
                log.debug("smoke: %s", self._lines[-1])


def command(python: Path, module: str, *arguments: str) -> tuple[str, ...]:
    """Runs a module of this package by another environment's Python."""
    package_parent = Path(pointsman_lora_server.__file__).parents[1]
    # Not resolved: a virtual environment's python is a link that knows its environment by its place.
    return (str(python.absolute()), "-P", "-c", _START.format(module=module), str(package_parent), *arguments)


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Not our own settings (one holds Redis's password), nor where our Python finds its modules."""
    kept = {
        key: value
        for key, value in ours.items()
        if not key.startswith(("POINTSMAN_", "AWS_")) and key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",  # a GPU's memory is the engine's
        "PYTHONUNBUFFERED": "1",
    }
