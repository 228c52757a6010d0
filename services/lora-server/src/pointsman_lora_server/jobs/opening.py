"""The line of jobs while the server runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pointsman_lora_server.jobs.job import Find, Place, Register
from pointsman_lora_server.jobs.line import Line


@asynccontextmanager
async def opening(place: Place, register: Register, find: Find) -> AsyncIterator[Line]:
    """Goes on with what an earlier life left. At the end the running job is stopped, to go on at the next start."""
    place.folder.mkdir(parents=True, exist_ok=True)
    line = Line(place, register, find)
    running = asyncio.create_task(line.run(), name="training jobs")
    try:
        yield line
    finally:
        line.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
