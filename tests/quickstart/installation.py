"""Runs commands as a user does who has installed the wheels, and has nothing else."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.doubles.waiting import until

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "dist"
PYTHONS = os.environ.get("QUICKSTART_PYTHONS", "python3").split()
KEPT = ("PIP_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "LANG")


def environment_of(home: Path) -> dict[str, str]:
    """Returns the environment of a user who has only Python: no clone, no virtual environment, no cache."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    return {**kept, "PATH": "/usr/bin:/bin", "HOME": str(home), "PIP_NO_CACHE_DIR": "1"}


async def run(folder: Path, environment: Mapping[str, str], *command: str, code: int = 0) -> str:
    """Runs a command to its end, which must have the exit status `code`, and returns all that it prints."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == code, f"{' '.join(command)}\n{output.decode()}"
    return output.decode()


@asynccontextmanager
async def running(folder: Path, environment: Mapping[str, str], *command: str) -> AsyncIterator[None]:
    """Runs `pointsman up` for the duration of the block, which begins when it is ready."""
    with (folder / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        await until(lambda: (folder / ".pointsman/run.json").exists() or up.returncode is not None, within=300)
        assert up.returncode is None, (folder / "up.log").read_text()
        yield
    finally:
        if up.returncode is None:
            up.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.wait(), 60) == 0, (folder / "up.log").read_text()
