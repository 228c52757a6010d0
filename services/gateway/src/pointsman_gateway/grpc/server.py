"""The gRPC door: `pointsman.v1.Gateway` in front of the pipeline."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_errors import to_status

from pointsman_gateway.domain import Caller, Chunks, Event, Finished, Operation, Path, Receipt, Request, Started
from pointsman_gateway.grpc import answers as answers
from pointsman_gateway.grpc import metadata as metadata
from pointsman_gateway.grpc.requests import to_feedback, to_request
from pointsman_gateway.http.cache_control import wish_of
from pointsman_gateway.http.callers import caller_of
from pointsman_gateway.http.feedback import FeedbackBox
from pointsman_gateway.http.limits import check_counts
from pointsman_gateway.pipeline.config_reload import Names
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.ports import Tenancy
from pointsman_gateway.pipeline.run import to_public_error
from pointsman_gateway.pipeline.sinks import CollectedAnswer, ItemQueue
from pointsman_gateway.routing.path_state import Availability

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"].full_name

# In quotes: grpcio's classes are generic in their stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TELLING = 0.05
"""Seconds before the caller's deadline, or a tenth of its time where that is less, at which we say that time ran out:
the caller then learns what was decided and what it cost, not only that nothing came."""


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

OPERATIONS: dict[str, Operation] = {
    f"/{SERVICE}/GenerateStream": "chat",
    f"/{SERVICE}/Generate": "chat",
    f"/{SERVICE}/Route": "route",
}
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
                self._pipeline.turned_away(operation, to_public_error(error), arrived)
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
        sink = StreamSink()
        try:
            asked = await self._asked("chat", request, context)
            sink.run = run = self._pipeline.run(asked, sink)
            run.start()
            del run
            await sink.write_to(partial(_write, context), asked.deadline)
        except grpc.aio.UsageError as error:  # the call has ended; the cancellation comes a moment later
            raise asyncio.CancelledError from error
        except Exception as error:
            await _abort(context, error, sink.start)
        return
        yield

    async def Generate(  # the contract's name
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        sink = CollectedAnswer()
        try:
            asked = replace(await self._asked("chat", request, context), as_a_whole=True)
            sink.run = run = self._pipeline.run(asked, sink)
            run.start()
            del run
            finished = await sink.whole()
        except Exception as error:
            await _abort(context, error, sink.start)
        started, receipt = sink.start, finished.receipt
        assert started is not None  # it has finished
        context.set_trailing_metadata(metadata.trailers(receipt.decision, receipt, started.limit_headers))
        return answers.whole_response(started, sink.pieces, finished)

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
            refusal = to_public_error(error)
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


class StreamSink(ItemQueue[Event]):
    """Implements `AnswerSink`."""

    def __init__(self) -> None:
        super().__init__()
        self.start: Started | None = None

    def started(self, started: Started) -> None:
        self.start = started
        self.put(started)

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.put(chunks)

    def finished(self, finished: Finished) -> None:
        self.put(finished)

    def failed(self, error: PointsmanError) -> None:
        self.close(error)

    def closed(self) -> None:
        self.detach()


async def _write(context: Context, event: Event) -> None:
    if isinstance(event, tuple):
        for response in answers.delta_responses(event):
            await context.write(response)
    elif isinstance(event, Started):
        await context.send_initial_metadata(metadata.beginning(event))
        await context.write(answers.started_response(event))
    else:
        receipt = event.receipt
        context.set_trailing_metadata(metadata.trailers(receipt.decision, receipt))
        await context.write(answers.finished_response(event))


async def _abort(context: Context, error: Exception, started: Started | None) -> NoReturn:
    """Ends the call with the error's status, and with trailers as after an answer."""
    left = getattr(error, "receipt", None)
    receipt = left if isinstance(left, Receipt) else None
    decision = receipt.decision if receipt else started.decision if started else None
    status = to_status(to_public_error(error))
    known = metadata.trailers(decision, receipt, getattr(error, "limits", {}))
    await context.abort(status.code, status.details, (*known, *status.trailing_metadata))
