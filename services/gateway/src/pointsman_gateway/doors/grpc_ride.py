"""A plain answer over gRPC on the express lane: the call's own coroutine waits once, for all of it."""

import asyncio

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.logs import request_id

from pointsman_gateway.begun import Begun
from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.doors.express_ride import Ride
from pointsman_gateway.pipeline import Pipeline

Whole = tuple[Started, list[Chunk], Finished]


class GrpcRide(Ride):
    """One call of `Generate`."""

    def __init__(self, pipeline: Pipeline, begun: Begun) -> None:
        super().__init__(pipeline, begun, request_id.get(), as_a_whole=True)
        self._chunks: list[Chunk] = []
        self._whole: asyncio.Future[Whole | None] | None = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Until there is what `begin` could not have at once."""
        try:
            await self._pipeline.go_on(self._begun)
        except asyncio.CancelledError:
            self.gone()
            raise

    async def arrival(self) -> Whole | None:
        """None where the line is to go on from here. Raises PointsmanError, with its receipt. Awaited once."""
        assert self._whole is not None
        try:
            return await self._whole
        except asyncio.CancelledError:
            self.gone()
            raise
        finally:
            self._whole = None  # it keeps what it raises, whose traceback has this frame, which has us

    @property
    def _waiting(self) -> "asyncio.Future[Whole | None] | None":
        """None where nobody waits any more."""
        return None if self._whole is None or self._whole.done() else self._whole

    def _piece(self, chunks: Chunks, last: bool) -> None:
        self._chunks.extend(chunks)

    def _arrived(self, started: Started, finished: Finished) -> None:
        if waiting := self._waiting:
            waiting.set_result((started, self._chunks, finished))

    def _failed(self, error: PointsmanError) -> None:
        if waiting := self._waiting:
            waiting.set_exception(error)

    def _left(self) -> None:
        if waiting := self._waiting:
            waiting.set_result(None)

    def _crashed(self, error: PointsmanError) -> None:
        self._failed(error)
