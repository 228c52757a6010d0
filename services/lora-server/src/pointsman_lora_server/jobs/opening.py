"""The line of jobs while the server runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pointsman_lora_server.jobs.job import Find, JobEnvironment, Register
from pointsman_lora_server.jobs.line import JobQueue


@asynccontextmanager
async def opening(place: JobEnvironment, register: Register, find: Find) -> AsyncIterator[JobQueue]:
    """Goes on with what an earlier life left. At the end the running job is stopped, to go on at the next start."""
    place.folder.mkdir(parents=True, exist_ok=True)
    line = JobQueue(place, register, find)
    running = asyncio.create_task(line.run(), name="training jobs")
    try:
        yield line
    finally:
        line.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
