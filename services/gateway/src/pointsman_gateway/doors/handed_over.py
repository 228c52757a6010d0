"""What the express lane hands over to the ordinary route: a request as far as it has come."""

from pointsman_gateway.begun import Begun
from pointsman_gateway.domain.value import value

HANDED_OVER = "pointsman.handed_over"
"""In an ASGI scope, a `HandedOver`; not there where nothing has been done yet."""


@value
class HandedOver:
    """A request that goes on in the ordinary way."""

    begun: Begun
    streams: bool
    include_usage: bool
    name: str
    """By which the request is known."""
