"""The gRPC service `pointsman.v1.Gateway`: authenticates calls, converts messages, and runs requests in the pipeline.

The metadata of a request holds the credential and cache control; the metadata of an answer holds the decision, usage
and cost.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_errors import to_status
from pointsman_servicekit.logs import request_id

from pointsman_gateway.codec.headers import bearer_token, cache_mode, cost_headers, decision_headers, identify_caller
from pointsman_gateway.codec.limits import check_counts
from pointsman_gateway.domain import ANONYMOUS, Caller, Decision, Event, Operation, Receipt, Request, Started
from pointsman_gateway.grpc.request_messages import to_feedback, to_request
from pointsman_gateway.grpc.response_messages import (
    delta_responses,
    finished_response,
    path_info,
    route_response,
    started_response,
    whole_response,
)
from pointsman_gateway.pipeline.admission import UnreadBudget
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot, Pipeline
from pointsman_gateway.pipeline.public_error import to_public_error
from pointsman_gateway.pipeline.sinks import CollectedAnswer, EventQueue
from pointsman_gateway.ports import Tenancy
from pointsman_gateway.request_log.feedback_store import FeedbackStore

Metadata = tuple[tuple[str, str], ...]

_NO_LIMITS: Mapping[str, str] = {}

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"].full_name

# In quotes: grpcio's classes are generic in their stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DEADLINE_MARGIN = 0.05
"""Seconds before the caller's deadline at which a call fails; at most a tenth of the caller's time.

The caller then receives the status with its details, decision and cost, before its own timer ends the call."""

authenticated_caller: ContextVar[Caller] = ContextVar("authenticated_caller")
"""The caller of the gRPC call that the current task handles, once the caller was authenticated."""

OPERATIONS: dict[str, Operation] = {
    f"/{SERVICE}/GenerateStream": "chat",
    f"/{SERVICE}/Generate": "chat",
    f"/{SERVICE}/Route": "route",
}
"""The operation in the receipt of a rejected call, by method. Rejected calls of other methods get no receipt."""


def authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Returns the value of the Authorization header in a call's metadata; empty if there is none."""
    for name, value in metadata or ():
        if name == "authorization":
            return str(value)
    return ""


def cache_control(metadata: Iterable[tuple[str, str | bytes]] | None) -> bytes:
    """Returns the value of the Cache-Control header in a call's metadata; empty if there is none."""
    found = next((value for name, value in metadata or () if name == "cache-control"), "")
    return found.encode() if isinstance(found, str) else found


def initial_metadata(started: Started) -> Metadata:
    """Returns the initial metadata of a stream: the decision and the caller's limits, in the headers that HTTP has."""
    headers = [(name.decode(), _to_ascii(value.decode("latin-1"))) for name, value in decision_headers(started)]
    return (*headers, *started.limit_headers.items())


def trailing_metadata(
    decision: Decision | None, receipt: Receipt | None, limits: Mapping[str, str] = _NO_LIMITS
) -> Metadata:
    """Returns the trailing metadata of a call: the request's id; with a decision, its id, path and kind; with a
    receipt, cost and tokens.

    `limits` are headers with the amounts that are left of the caller's limits; empty if they were sent before.
    """
    sent = [("x-pointsman-request-id", _to_ascii(request_id.get()))]
    if decision is not None:
        sent += [
            ("x-pointsman-decision-id", decision.id),
            ("x-pointsman-path", _to_ascii(decision.path.name)),
            ("x-pointsman-kind", decision.path.kind.value),
        ]
    if receipt is not None:
        counts = receipt.usage.counts_by_name.items()
        sent += [(name.decode(), cost.decode()) for name, cost in cost_headers(receipt)]
        sent += [(f"x-pointsman-{name.replace('_', '-')}", str(count)) for name, count in counts]
    return (*sent, *limits.items())


def _to_ascii(value: str) -> str:
    """Returns the value with "?" for each character that is not printable ASCII. Metadata cannot hold such characters,
    but names in the configuration may have them.
    """
    if value.isascii() and value.isprintable():
        return value
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in value])


class CurrentConfiguration(Protocol):
    """Interface to the active configuration; `ConfigReloader` implements it."""

    @property
    def current(self) -> ConfigSnapshot: ...


class Authentication:
    """Authenticates each call by its metadata, before its message is received; calls of the health and reflection
    services need no key. Implements servicekit's `Gate`.
    """

    def __init__(self, pipeline: Pipeline, tenancy: Tenancy) -> None:
        self._pipeline = pipeline
        self._tenancy = tenancy

    async def admit(self, method: str, context: Context) -> str:
        """Identifies the caller, stores it in `authenticated_caller`, and returns its tenant.

        If `Tenancy.identify` raises an error, records the rejection if `method` ("/SERVICE/METHOD") is in `OPERATIONS`,
        and aborts the call with the error's status, such as UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE.
        """
        arrived = time.perf_counter()
        operation = OPERATIONS.get(method)
        try:
            caller = await identify_caller(self._tenancy, bearer_token(authorization(context.invocation_metadata())))
        except asyncio.CancelledError:
            if operation:
                self._pipeline.record_rejection(operation, None, arrived, caller=ANONYMOUS)
            raise
        except Exception as error:
            if operation:
                self._pipeline.record_rejection(operation, to_public_error(error), arrived, caller=ANONYMOUS)
            await _abort(context, error, None)
        authenticated_caller.set(caller)
        return caller.tenant


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """Implements the gRPC service `pointsman.v1.Gateway`, whose contract names its methods."""

    def __init__(
        self,
        pipeline: Pipeline,
        feedback: FeedbackStore,
        request_timeout: float,
        configuration: CurrentConfiguration,
    ) -> None:
        self._pipeline = pipeline
        self._feedback = feedback
        self._request_timeout = request_timeout
        self._configuration = configuration

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Answers a request as a stream of messages.

        The messages are written to the context, and none is yielded, because a generator could not limit how long
        the client takes to read.
        """
        sink = StreamSink(self._pipeline.admission.unread)
        try:
            decoded = self._decode("chat", request, context)
            sink.run = run = self._pipeline.run(decoded, sink)
            run.start()
            del run
            await sink.write_to(partial(_write, context), decoded.deadline)
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:  # the call has ended
            raise asyncio.CancelledError from error
        except Exception as error:
            await _abort(context, error, sink.start)
        return
        yield

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        sink = CollectedAnswer()
        try:
            decoded = self._decode("chat", request, context, as_a_whole=True)
            sink.run = run = self._pipeline.run(decoded, sink)
            run.start()
            del run
            finished = await sink.whole()
        except Exception as error:
            await _abort(context, error, sink.start)
        started, receipt = sink.start, finished.receipt
        assert started is not None  # the answer has finished
        context.set_trailing_metadata(trailing_metadata(receipt.decision, receipt, started.limit_headers))
        return whole_response(started, sink.pieces, finished)

    async def Route(self, request: pb.RouteRequest, context: Context) -> pb.RouteResponse:
        decoded = self._decode("route", request, context)
        routed = await self._pipeline.decide(decoded, request.include_prompt)
        costs = self._pipeline.costs(decoded, routed.decision)
        return route_response(routed, costs)

    async def Feedback(self, request: pb.FeedbackRequest, context: Context) -> pb.FeedbackResponse:
        stored = await self._feedback.take(to_feedback(request, authenticated_caller.get()))
        return pb.FeedbackResponse(stored=stored.where, known_already=stored.known_already)

    async def ListPaths(self, request: pb.ListPathsRequest, context: Context) -> pb.ListPathsResponse:
        configuration, scope = self._configuration.current, authenticated_caller.get().scope
        visible = scope.visible(configuration.catalog).paths
        paths = [path for path in configuration.paths if path.name in visible]
        return pb.ListPathsResponse(
            paths=[path_info(path, configuration.engines.why_not(path)) for path in paths],
            models=configuration.model_names(scope),
            revision=configuration.revision,
        )

    def _decode(
        self,
        operation: Operation,
        request: pb.GenerateRequest | pb.RouteRequest,
        context: Context,
        as_a_whole: bool = False,
    ) -> Request:
        """Decodes a request. Raises InvalidArgument if it is invalid, after the receipt of the rejection was logged."""
        arrived = time.perf_counter()
        cache = cache_mode(cache_control(context.invocation_metadata()))
        try:
            deadline, caller = self._deadline(context), authenticated_caller.get()
            decoded = to_request(request, deadline, caller, cache, arrived, as_a_whole)
            check_counts(decoded.messages, decoded.sampling.extra)
            return decoded
        except Exception as error:
            rejection = to_public_error(error)
            try:
                self._pipeline.record_rejection(operation, rejection, arrived, caller=authenticated_caller.get())
                if rejection is error:
                    raise
                raise rejection from error
            finally:
                del rejection  # breaks the reference cycle with this frame, which is in its traceback

    def _deadline(self, context: Context) -> float:
        """Returns the deadline in seconds on the event loop's clock: that of the gateway or, if it is earlier, that of
        the caller less `DEADLINE_MARGIN`.
        """
        seconds, remaining = self._request_timeout, context.time_remaining()
        if remaining is not None:
            seconds = min(seconds, remaining - min(DEADLINE_MARGIN, remaining / 10))
        return asyncio.get_running_loop().time() + seconds


class StreamSink(EventQueue):
    """Queues the events of one streamed answer. `start` is the first event, whose decision goes into the metadata
    if an error follows.
    """

    def __init__(self, unread: UnreadBudget) -> None:
        super().__init__(unread)
        self.start: Started | None = None

    def started(self, started: Started) -> None:
        self.start = started
        super().started(started)


async def _write(context: Context, event: Event) -> None:
    if isinstance(event, tuple):
        for response in delta_responses(event):
            await context.write(response)
    elif isinstance(event, Started):
        await context.send_initial_metadata(initial_metadata(event))
        await context.write(started_response(event))
    else:
        receipt = event.receipt
        context.set_trailing_metadata(trailing_metadata(receipt.decision, receipt))
        await context.write(finished_response(event))


async def _abort(context: Context, error: Exception, started: Started | None) -> NoReturn:
    """Ends the call with the status of the error, and with the trailing metadata of an answer (`trailing_metadata`) as
    far as it is known. `started` is the answer's first event, None before it.
    """
    receipt_of_error = getattr(error, "receipt", None)
    receipt = receipt_of_error if isinstance(receipt_of_error, Receipt) else None
    decision = receipt.decision if receipt else started.decision if started else None
    status = to_status(to_public_error(error))
    known = trailing_metadata(decision, receipt, getattr(error, "limits", {}))
    await context.abort(status.code, status.details, (*known, *status.trailing_metadata))
