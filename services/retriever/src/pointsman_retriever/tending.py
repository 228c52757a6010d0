"""Indexes made anew beside the ones that serve, when these have grown out of shape."""

import asyncio
import logging

from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.workers import ThreadPools
from pointsman_retriever.writing import GroupCommitWriter

log = logging.getLogger(__name__)


class Compactor:
    """For the event loop's thread."""

    def __init__(self, crew: ThreadPools) -> None:
        self._crew = crew
        self._tasks: dict[GroupCommitWriter, asyncio.Task[None]] = {}

    def look_after(self, pen: GroupCommitWriter) -> None:
        """After a change."""
        if pen.shelf.wants_tidying and pen not in self._tasks:
            task = asyncio.create_task(self._tidy(pen))
            self._tasks[pen] = task
            task.add_done_callback(lambda _: self._tasks.pop(pen))

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _tidy(self, pen: GroupCommitWriter) -> None:
        try:
            tidy = await self._crew.writing.run(pen.shelf.begin_tidying)
            await self._crew.writing.run(pen.shelf.end_tidying, await self._crew.tending.run(tidy))
            log.info("made the index of %s anew", pen.shelf.collection.id)
        except PointsmanError as error:
            log.warning("the index of %s stays as it is: %s", pen.shelf.collection.id, error)
        except Exception:
            log.exception("the index of %s could not be made anew", pen.shelf.collection.id)
            await self._crew.writing.run(pen.shelf.give_up_tidying)
