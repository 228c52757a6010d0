"""The interface for JSON POSTs whose response is needed as a whole: to engines and to guardrails' services.

`engines/http_post.py` implements it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    pieces: tuple[bytes, ...]
    """The body."""
    retry_after: float | None = None
    location: str = ""
    """The target of a redirect, which is not followed."""


class HttpUnreachable(Exception):
    """An HTTP request got no complete response; the message gives the reason."""


class HttpPoster(Protocol):
    """Posts a body to an engine or another service, and returns the whole response."""

    async def post(
        self,
        url: str,
        auth_header: str,
        body: bytes,
        deadline: float,
        max_bytes: int,
        reserve: Callable[[int], None] | None = None,
    ) -> HttpReply:
        """Posts a JSON body; `auth_header` is a header line, or empty. Error statuses and redirects are returned.

        Raises HttpUnreachable: no connection, `deadline` (on the event loop's clock), or a response over `max_bytes`.
        `reserve` is called with the length of each piece of the response; the PointsmanError that it raises ends the
        request.
        """
        ...
