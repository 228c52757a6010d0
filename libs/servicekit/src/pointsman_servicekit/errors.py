"""The classes of all errors that callers see, each with its gRPC code and HTTP status.

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
    """The base of all errors whose message is written for the caller."""

    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str, param: str | None = None, retry_after: float | None = None) -> None:
        """Takes a message; `code` names the mistake, `param` the parameter at fault; `retry_after` is in seconds."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.receipt: object | None = None
        """The receipt of a failed request, set by the gateway so that its HTTP and gRPC servers can report what it
        cost."""
        self.fault = ""
        """Who caused the error ("engine"), if neither the class nor the code implies it; else empty."""
        self.limits: Mapping[str, str] = {}
        """The state of the caller's limits as HTTP headers, if one of them was exceeded."""

    def copy(self) -> Self:
        """Returns a copy to raise instead of an error that is stored.

        Each raise of one object adds to its traceback, which keeps the frames of every request that it was raised in.
        """
        copied = type(self).__new__(type(self), *self.args)
        copied.args = self.args
        copied.__dict__.update(self.__dict__)
        return copied


class InvalidArgument(PointsmanError):
    """The request is wrong and cannot succeed however often it is sent."""

    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class Unauthenticated(PointsmanError):
    """The caller's credential is missing or not valid."""

    grpc_status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class PermissionDenied(PointsmanError):
    """The caller is known but not allowed to do this."""

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
    """The present state forbids the request; something else must be done first."""

    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class ResourceExhausted(PointsmanError):
    """A rate limit, a quota or a budget is used up."""

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
    """An error in Pointsman itself, not in the request."""


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
    """An object that keeps an error until it is raised."""

    error: E | None


def take_error(holder: HoldsError[E]) -> E:
    """Returns the error that an object keeps, and removes it there: `raise take_error(self)`.

    An error refers to its traceback, and that to the frames that the error passed through. If one of them still refers
    to the error, by a variable of its own or by its object, only the garbage collector frees the frames, and the
    request with them. So the error must be in neither when it is raised.
    """
    error, holder.error = holder.error, None
    assert error is not None
    return error
