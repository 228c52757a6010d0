"""The gRPC door: `pointsman.v1.Gateway` in front of the pipeline."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import DeadlineExceeded
from pointsman_servicekit.grpc_errors import to_status

from pointsman_gateway.domain import Caller, Chunk, Event, Operation, Path, Receipt, Request, Started
from pointsman_gateway.doors import grpc_answers as answers
from pointsman_gateway.doors import grpc_metadata as metadata
from pointsman_gateway.doors.answering import told
from pointsman_gateway.doors.cache_control import wish_of
from pointsman_gateway.doors.callers import Tenancy, caller_of
from pointsman_gateway.doors.feedback import FeedbackBox
from pointsman_gateway.doors.grpc_requests import to_feedback, to_request
from pointsman_gateway.doors.grpc_ride import GrpcRide, Whole
from pointsman_gateway.doors.limits import check_counts
from pointsman_gateway.generations import Names
from pointsman_gateway.pipeline import Pipeline
from pointsman_gateway.routing.router import Availability

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"].full_name

# In quotes: grpcio's classes are generic in their stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TELLING = 0.05
"""Seconds before the caller's deadline, or a tenth of its time where that is less, at which we say that time ran out:
the caller then learns what was decided and what it cost, not only that nothing came."""
STALLED = 0.5
"""Seconds after the deadline until a stream is cut whose reader does not take what is written."""


class Offer(Protocol):
    """One configuration: what it offers, and what of that could answer now."""

    @property
    def id(self) -> str: ...

    @property
    def paths(self) -> Sequence[Path]: ...

    @property
    def models(self) -> Names: ...

    @property
    def engines(self) -> Availability: ...


class Configuration(Protocol):
    """What serves now."""

    @property
    def current(self) -> Offer: ...


authenticated_caller: ContextVar[Caller] = ContextVar("authenticated_caller")
"""Whose key the call of this task shows."""

OPERATIONS: dict[str, Operation] = {"GenerateStream": "chat", "Generate": "chat", "Route": "route"}
"""Methods whose rejected calls leave a receipt."""


class Authentication:
    """Authenticates each call by its metadata, before its message is received. Implements servicekit's `Gate`."""

    def __init__(self, pipeline: Pipeline, tenancy: Tenancy) -> None:
        self._pipeline = pipeline
        self._tenancy = tenancy

    async def admit(self, method: str, context: Context) -> str:
        """Aborts the call with UNAUTHENTICATED if its key is missing, unknown, revoked or expired."""
        arrived = time.perf_counter()
        operation = OPERATIONS.get(method)
        try:
            caller = await caller_of(self._tenancy, metadata.authorization(context.invocation_metadata()))
        except asyncio.CancelledError:
            if operation:
                self._pipeline.turned_away(operation, None, arrived)
            raise
        except Exception as error:
            if operation:
                self._pipeline.turned_away(operation, told(error), arrived)
            await _abort(context, error, None)
        authenticated_caller.set(caller)
        return caller.tenant


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """Converts and delegates."""

    def __init__(
        self,
        pipeline: Pipeline,
        feedback: FeedbackBox,
        request_timeout: float,
        configuration: Configuration,
    ) -> None:
        self._pipeline = pipeline
        self._feedback = feedback
        self._request_timeout = request_timeout
        self._configuration = configuration

    async def GenerateStream(  # the contract's name
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Writes to the context itself and yields nothing: who yields can set no time for what is not read."""
        writing = _Writing(context)
        try:
            asked = await self._asked("chat", request, context)
            async with aclosing(self._pipeline.answer(asked)) as events:  # type: ignore[type-var]  # a generator's
                await writing.all(events, asked.deadline + STALLED)
        except grpc.aio.UsageError as error:  # the call has ended; the cancellation comes a moment later
            raise asyncio.CancelledError from error
        except Exception as error:
            await _abort(context, error, writing.started)
        return
        yield

    async def Generate(  # the contract's name
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        gathering = _Gathering()
        try:
            asked = await self._asked("chat", request, context)
            begun = self._pipeline.begin(asked)
            ride = GrpcRide(self._pipeline, begun)
            if begun.lacks_little:
                await ride.wait()
            # What OpenAI's other fields ask for may be more than the lane has been shown to do.
            whole = await ride.arrival() if not asked.sampling.extra and ride.departs() else None
            if whole is None:
                whole = await gathering.all(self._pipeline.answer(asked, begun))
        except Exception as error:
            await _abort(context, error, gathering.started)
        started, chunks, finished = whole
        context.set_trailing_metadata(
            metadata.trailers(finished.receipt.decision, finished.receipt, started.limit_headers)
        )
        return answers.whole_response(started, chunks, finished)

    async def Route(self, request: pb.RouteRequest, context: Context) -> pb.RouteResponse:  # the contract's name
        asked = await self._asked("route", request, context)
        routed = await self._pipeline.decide(asked, request.include_prompt)
        costs = self._pipeline.costs(asked, routed.decision)
        return answers.route_response(routed.decision, costs, routed.prompt)

    async def Feedback(  # the contract's name
        self, request: pb.FeedbackRequest, context: Context
    ) -> pb.FeedbackResponse:
        stored = await self._feedback.take(to_feedback(request, authenticated_caller.get()))
        return pb.FeedbackResponse(stored=stored.where, known_already=stored.known_already)

    async def ListPaths(  # the contract's name
        self, request: pb.ListPathsRequest, context: Context
    ) -> pb.ListPathsResponse:
        offer = self._configuration.current
        paths = [answers.path_info(path, offer.engines.why_not(path)) for path in offer.paths]
        return pb.ListPathsResponse(paths=paths, models=offer.models.names(), generation=offer.id)

    async def _asked(
        self, wanted: Operation, request: pb.GenerateRequest | pb.RouteRequest, context: Context
    ) -> Request:
        """Raises PointsmanError; a request that comes no further leaves its receipt here."""
        arrived = time.perf_counter()
        try:
            return await self._decoded(request, context, arrived)
        except asyncio.CancelledError:
            self._pipeline.turned_away(wanted, None, arrived)
            raise
        except Exception as error:
            refusal = told(error)
            try:
                self._pipeline.turned_away(wanted, refusal, arrived)
                if refusal is error:
                    raise
                raise refusal from error
            finally:
                del refusal  # or it and this frame, which is in its traceback, hold each other

    async def _decoded(
        self, request: pb.GenerateRequest | pb.RouteRequest, context: Context, arrived: float
    ) -> Request:
        cache = wish_of(metadata.cache_control(context.invocation_metadata()))
        asked = to_request(request, self._deadline(context), authenticated_caller.get(), cache, arrived)
        check_counts(asked.messages, asked.sampling.extra)
        return asked

    def _deadline(self, context: Context) -> float:
        """The caller's, or the gateway's own, whichever is earlier."""
        seconds, left = self._request_timeout, context.time_remaining()
        if left is not None:
            seconds = min(seconds, left - min(TELLING, left / 10))
        return asyncio.get_running_loop().time() + seconds


class _Gathering:
    """One answer, until it is whole."""

    def __init__(self) -> None:
        self.started: Started | None = None

    async def all(self, events: AsyncIterator[Event]) -> Whole:
        """Raises what the line raises."""
        chunks: list[Chunk] = []
        finished = None
        async with aclosing(events):  # type: ignore[type-var]  # a generator's
            async for event in events:
                if isinstance(event, tuple):
                    chunks.extend(event)
                elif isinstance(event, Started):
                    self.started = event
                else:
                    finished = event
        assert self.started is not None
        assert finished is not None
        return self.started, chunks, finished


class _Writing:
    """One answer, written to its stream."""

    def __init__(self, context: Context) -> None:
        self.started: Started | None = None
        self._context = context

    async def all(self, events: AsyncIterator[Event], latest: float) -> None:
        """Raises DeadlineExceeded where it is not taken by `latest`, and what the line raises."""
        try:
            async with asyncio.timeout_at(latest):
                async for event in events:
                    await self._write(event)
        except TimeoutError as error:
            stalled = DeadlineExceeded(
                "the request's time ran out before its answer was read", code="deadline_exceeded"
            )
            try:
                with suppress(StopAsyncIteration):
                    await events.athrow(stalled)  # type: ignore[attr-defined]  # a generator's; it is metered as what it is
                raise stalled from error
            finally:
                del stalled  # or it and this frame, which is in its traceback, hold each other

    async def _write(self, event: Event) -> None:
        if isinstance(event, tuple):
            for response in answers.delta_responses(event):
                await self._context.write(response)
        elif isinstance(event, Started):
            self.started = event
            await self._context.send_initial_metadata(metadata.beginning(event))
            await self._context.write(answers.started_response(event))
        else:
            receipt = event.receipt
            self._context.set_trailing_metadata(metadata.trailers(receipt.decision, receipt))
            await self._context.write(answers.finished_response(event))


async def _abort(context: Context, error: Exception, started: Started | None) -> NoReturn:
    """Ends the call with the error's status, and with trailers as after an answer."""
    left = getattr(error, "receipt", None)
    receipt = left if isinstance(left, Receipt) else None
    decision = receipt.decision if receipt else started.decision if started else None
    status = to_status(told(error))
    known = metadata.trailers(decision, receipt, getattr(error, "limits", {}))
    await context.abort(status.code, status.details, (*known, *status.trailing_metadata))
