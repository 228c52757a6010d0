"""The interface of an HTTP client that posts JSON and reads the whole response.

Embedding models, token counting and guardrails use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    pieces: tuple[bytes, ...]
    """The body, in the pieces in which it arrived."""
    retry_after: float | None = None
    """Seconds to wait before a retry, as the response says; None if the response does not say."""
    location: str = ""
    """The target of a redirect, which is not followed; empty if there is none."""


class HttpUnreachable(Exception):
    """Raised if an HTTP request gets no complete response within its limits of time and size; the message says why."""


class HttpPoster(Protocol):
    """Interface of an HTTP client that posts JSON; `PooledPoster` in `engines/http_post.py` implements it."""

    async def post(
        self,
        url: str,
        auth_header: str,
        body: bytes,
        deadline: float,
        max_bytes: int,
        reserve: Callable[[int], None] | None = None,
    ) -> HttpReply:
        """Posts a JSON `body` to a full URL, and returns the response, whatever its status.

        `auth_header` is a whole header line, or empty. `deadline` is in seconds on the event loop's clock. Raises
        HttpUnreachable if the connection fails, the deadline passes, or the response's body has over `max_bytes`.
        `reserve` is called with the length of each piece of the body; an error that it raises ends the request.
        """
        ...
