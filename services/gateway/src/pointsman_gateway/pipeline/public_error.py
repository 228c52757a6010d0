"""What a client learns of an error: an error of the gateway's tree as it is, and of a bug only the request's id."""

import logging

from pointsman_servicekit.errors import Internal, PointsmanError
from pointsman_servicekit.logs import request_id

log = logging.getLogger(__name__)


def to_public_error(error: Exception) -> PointsmanError:
    """Returns the error to send to the client; a bug is logged, and the client gets only the request's id."""
    if isinstance(error, PointsmanError):
        return error
    log.exception("internal error (request %s)", request_id.get(), exc_info=error)
    return Internal(f"internal error (request {request_id.get()})", code="internal")
