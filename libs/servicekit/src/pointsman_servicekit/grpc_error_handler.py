"""Converts the exceptions of gRPC servicers to statuses, and reads the ids of a call from its metadata."""

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from pointsman_servicekit.errors import Internal, PointsmanError
from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, to_status, wrap_handler
from pointsman_servicekit.logs import NO_ID, decision_id, request_id

log = logging.getLogger(__name__)


class ErrorHandler(HandlerInterceptor):
    """A server interceptor that converts a servicer's exception to a gRPC status (`to_status`).

    An exception that is not a PointsmanError is logged with a random id, and the client gets INTERNAL with this id. The
    interceptor also sets `logs.request_id` and `logs.decision_id` from the call's metadata, cut to 64 characters; a
    call without a request id gets a random one.
    """

    def replace(self, handler: Any, method: str) -> Handler:
        return wrap_handler(handler, _guarded_unary, _guarded_stream)


def _guarded_unary(behaviour: Any) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            _take_ids(context)
            try:
                return await behaviour(request, context)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                await _abort(context, error)
        except grpc.aio.AbortError as aborted:
            _forget_where(aborted)
            del request, context
            raise

    return call


def _guarded_stream(behaviour: Any) -> Any:
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # health's Watch writes to the context itself

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            _take_ids(context)
            responses = behaviour(request, context)
            try:
                async for response in responses:
                    yield response
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                await _abort(context, error)
            finally:
                await responses.aclose()
        except grpc.aio.AbortError as aborted:
            _forget_where(aborted)
            del request, context, responses
            raise

    return call


async def _abort(context: Context, error: Exception) -> None:
    """Ends a gRPC call with the status of `error`; always raises.

    Raises AbortError, or CancelledError if the client is gone, for which gRPC raises InternalError on any sending.
    """
    if isinstance(error, grpc.aio.InternalError):
        raise asyncio.CancelledError from error
    try:
        await context.abort_with_status(to_status(_as_ours(error)))
    except grpc.aio.InternalError as failed:
        raise asyncio.CancelledError from failed


def _forget_where(aborted: grpc.aio.AbortError) -> None:
    """Removes the traceback of an AbortError whose status was sent.

    Otherwise context and error would refer to each other, and the call's objects would stay in memory until the next
    garbage collection.
    """
    aborted.__traceback__ = aborted.__context__ = None


def _take_ids(context: Context) -> None:
    sent = dict(context.invocation_metadata() or ())
    request = sent.get("x-request-id")
    request_id.set(str(request)[:64] if request else secrets.token_hex(8))
    decision_id.set(str(sent.get("x-pointsman-decision-id", NO_ID))[:64])


def _as_ours(error: Exception) -> PointsmanError:
    if isinstance(error, PointsmanError):
        return error
    error_id = secrets.token_hex(6)
    log.exception("internal error %s", error_id, exc_info=error)
    return Internal(f"internal error {error_id}", code="internal")
