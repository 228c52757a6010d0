"""Converts exceptions to the errors that clients get. A PointsmanError is sent as it is; of any other exception, the
client learns only the request's id.
"""

import logging

from pointsman_servicekit.errors import Internal, PointsmanError
from pointsman_servicekit.logs import request_id

log = logging.getLogger(__name__)


def to_public_error(error: Exception) -> PointsmanError:
    """Returns the error to send to the client for an exception: a PointsmanError itself, or Internal for any other one.

    Any other exception is a bug: it is logged, and Internal tells the client only the request's id.
    """
    if isinstance(error, PointsmanError):
        return error
    log.exception("internal error (request %s)", request_id.get(), exc_info=error)
    return Internal(f"internal error (request {request_id.get()})", code="internal")
