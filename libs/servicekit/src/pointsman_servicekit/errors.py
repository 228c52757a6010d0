"""The one error tree; each class has its gRPC code and HTTP status.

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

A class is a family; `code` is the stable, snake_case name of the very mistake ("unknown_model"), the same over both
doors.
"""

from collections.abc import Mapping
from typing import ClassVar

import grpc


class PointsmanError(Exception):
    """Something that a caller is told about, in words meant for them."""

    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str, param: str | None = None, retry_after: float | None = None) -> None:
        """`param` names the parameter at fault; `retry_after` is in seconds."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.receipt: object | None = None
        """What had been spent by then, where a service has put it here for its doors to tell."""
        self.fault = ""
        """Whose fault it is, where neither the class nor the code tells."""
        self.limits: Mapping[str, str] = {}
        """How the caller's limits stand, as HTTP headers, where one of them is why."""


class InvalidArgument(PointsmanError):
    """The request can never succeed as it is."""

    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class Unauthenticated(PointsmanError):
    """Nobody knows who asks."""

    grpc_status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class PermissionDenied(PointsmanError):
    """It is known who asks, and they may not."""

    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403


class NotFound(PointsmanError):
    """The request names something that is not there."""

    grpc_status = grpc.StatusCode.NOT_FOUND
    http_status = 404


class AlreadyExists(PointsmanError):
    """The name is taken."""

    grpc_status = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409


class FailedPrecondition(PointsmanError):
    """The state of things forbids it until something else is done."""

    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class ResourceExhausted(PointsmanError):
    """A limit, or a budget, is used up."""

    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429


class Unavailable(PointsmanError):
    """Something that is needed cannot be reached now; trying again may help."""

    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class DeadlineExceeded(PointsmanError):
    """Time ran out."""

    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class Internal(PointsmanError):
    """Our fault."""


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
