"""The classes of all errors that callers see, each with its HTTP status and gRPC code.

    PointsmanError
    ├── InvalidArgument       400  INVALID_ARGUMENT
    ├── Unauthenticated       401  UNAUTHENTICATED
    ├── PermissionDenied      403  PERMISSION_DENIED
    ├── NotFound              404  NOT_FOUND
    ├── AlreadyExists         409  ALREADY_EXISTS
    ├── FailedPrecondition    409  FAILED_PRECONDITION
    ├── ResourceExhausted     429  RESOURCE_EXHAUSTED
    ├── Unavailable           503  UNAVAILABLE
    ├── DeadlineExceeded      504  DEADLINE_EXCEEDED
    └── Internal              500  INTERNAL

An error's `code` is the stable, snake_case name of the exact mistake ("unknown_model"), the same over HTTP and gRPC.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self, TypeVar

import grpc

E = TypeVar("E", bound=Exception)


class PointsmanError(Exception):
    """The base class of all errors whose message is written for the caller of a service."""

    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str, param: str | None = None, retry_after: float | None = None) -> None:
        """Makes an error; `code` names the mistake ("unknown_model"), and `param` the request's parameter that is
        wrong.

        `retry_after` is the number of seconds after which a retry may succeed; None if no time is known.
        """
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.receipt: object | None = None
        """The gateway's receipt (tokens, times and cost) of the failed request, which the gateway's servers add to
        their answer. None in other services.
        """
        self.fault = ""
        """The component that caused the error, such as "engine"; empty if class and code imply it."""
        self.limits: Mapping[str, str] = {}
        """HTTP headers with the caller's limits and the unused part of each limit. Only the gateway sets them; empty in
        other services.
        """

    def copy(self) -> Self:
        """Returns a copy without a traceback. Raise a copy of an error that is stored and raised repeatedly.

        If the stored error itself were raised, each `raise` would lengthen its traceback, which keeps the frames of all
        requests in memory.
        """
        copied = type(self).__new__(type(self), *self.args)
        copied.args = self.args
        copied.__dict__.update(self.__dict__)
        return copied


class InvalidArgument(PointsmanError):
    """The request is wrong; sent again without a change, it fails again."""

    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class Unauthenticated(PointsmanError):
    """The caller's credential is missing or not valid."""

    grpc_status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class PermissionDenied(PointsmanError):
    """The caller is known, but is not allowed to make the request."""

    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403


class NotFound(PointsmanError):
    """The request names something that does not exist."""

    grpc_status = grpc.StatusCode.NOT_FOUND
    http_status = 404


class AlreadyExists(PointsmanError):
    """The name that the request wants to create is taken."""

    grpc_status = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409


class FailedPrecondition(PointsmanError):
    """The system's state does not allow the request; something must be changed before it is sent again."""

    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class ResourceExhausted(PointsmanError):
    """A limit is reached, such as a rate limit, a quota, a budget, the disk's size, or the number of running calls."""

    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429


class Unavailable(PointsmanError):
    """Something that the request needs cannot be reached now; a retry may succeed."""

    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class DeadlineExceeded(PointsmanError):
    """The request was not finished before its deadline."""

    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class Internal(PointsmanError):
    """An error in Pointsman or its stored data, not in the request."""


FAMILIES: tuple[type[PointsmanError], ...] = (
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    Internal,
)


class HoldsError(Protocol[E]):
    """Interface of an object that stores an error until it is raised; for `take_error`."""

    error: E | None


def take_error(holder: HoldsError[E]) -> E:
    """Removes the error that `holder` stores and returns it, to be raised: `raise take_error(self)`.

    `holder` must store an error. A raised error refers to its traceback, and the traceback to all frames that the error
    passed through. If one of these frames refers to the error, directly or through `holder`, they form a cycle, and
    only the garbage collector frees the frames and the request's objects in them.
    """
    error, holder.error = holder.error, None
    assert error is not None
    return error
