"""Reads the usual head of a chat request from its bytes, in one go.

What is not read here is no error: uvicorn reads it, and says what is wrong with it if anything is.
"""

import re
from dataclasses import dataclass

from pointsman_gateway.http.cache_control import wish_of

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
"""How each of these requests begins."""

MOST_HEADS = 1024
"""Heads that are kept in mind; a client sends the same one again and again."""
LONGEST_HEAD = 4096
"""Bytes."""

END_OF_HEAD = b"\r\n\r\n"
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+\r\n")
"""RFC 9112, 5: a token, a colon, and what can be seen; whatever else some send is for the parser to judge."""
_OF_THE_CONNECTION = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"})
_OF_ONE_REQUEST = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Heads that have one of these are not kept: they do not come again."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the gateway heeds of a request's headers."""

    length: int
    """Of the body, in bytes."""
    authorization: str
    name: bytes | None
    """The client's own for the request."""
    timeout: bytes | None
    cache: str
    headers: int
    """How many there are."""


class Heads:
    """Reads the heads of requests."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """From the request line to the empty line; None where it is not for the express lane."""
        known = self._known.get(head)
        if known is not None:
            return known
        if len(head) > LONGEST_HEAD or not _HEADERS.fullmatch(head, len(LINE)):
            return None
        lines = [line.partition(b":") for line in head[len(LINE) : -len(END_OF_HEAD)].split(b"\r\n")]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = headers.get(b"content-length", b"")
        stays = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        if len(headers) < len(lines):
            return None
        if not length.isdigit() or not stays or headers.keys() & _OF_THE_CONNECTION:
            return None
        read = Head(
            int(length),
            headers.get(b"authorization", b"").decode("latin-1"),
            headers.get(b"x-request-id"),
            headers.get(b"x-request-timeout"),
            wish_of(headers.get(b"cache-control")),
            len(lines),
        )
        if not headers.keys() & _OF_ONE_REQUEST:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[head] = read
        return read
