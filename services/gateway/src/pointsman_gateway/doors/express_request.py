"""Reads a chat request for the express lane: the usual shape alone, in one go, from the bytes as they came.

What is not read here is no error: the ordinary route reads it, and says what is wrong with it if anything is.
"""

import re
from dataclasses import dataclass
from typing import Annotated

import msgspec

from pointsman_gateway.domain import Caller, Message, Request, Sampling
from pointsman_gateway.doors.cache_control import wish_of
from pointsman_gateway.doors.limits import LIMITS

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
"""How each of these requests begins."""

MOST_HEADS = 1024
"""Heads that are kept in mind; a client sends the same one again and again."""
LONGEST_HEAD = 4096
"""Bytes."""
MOST_HEADERS = 64
"""Who sends more goes where it is known how many are too many."""

_END = b"\r\n\r\n"
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
        lines = [line.partition(b":") for line in head[len(LINE) : -len(_END)].split(b"\r\n")]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = headers.get(b"content-length", b"")
        stays = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        if len(lines) > MOST_HEADERS or len(headers) < len(lines):
            return None
        if not length.isdigit() or not stays or headers.keys() & _OF_THE_CONNECTION:
            return None
        read = Head(
            int(length),
            headers.get(b"authorization", b"").decode("latin-1"),
            headers.get(b"x-request-id"),
            headers.get(b"x-request-timeout"),
            wish_of(headers.get(b"cache-control")),
        )
        if not headers.keys() & _OF_ONE_REQUEST:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[head] = read
        return read


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class Chat(msgspec.Struct, forbid_unknown_fields=True):
    """A body that says nothing but this. `ChatBody` is the whole of what there is."""

    model: str
    messages: Annotated[list[_Message], msgspec.Meta(max_length=LIMITS.messages)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=4)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def to_request(self, deadline: float, caller: Caller, cache: str, arrived: float) -> Request:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Request(
            model=self.model,
            messages=tuple([_message(said) for said in self.messages]),
            sampling=Sampling(
                max_tokens=self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                stop=stop,
            ),
            metadata=self.metadata or {},
            user=self.user or "",
            deadline=deadline,
            caller=caller,
            cache=cache,
            arrived_at=arrived,
        )


_decode = msgspec.json.Decoder(Chat).decode


def read_body(body: bytes) -> Chat | None:
    """None where it says more, or is wrong."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def head_of(data: bytes) -> bytes:
    """The bytes of the head, with the empty line after it; empty where it has not come as a whole."""
    end = data.find(_END)
    return b"" if end < 0 else data[: end + len(_END)]


def _message(said: _Message) -> Message:
    # As in `openai_requests`: OpenAI's newer name for it, which chat templates of open models do not know.
    return Message("system" if said.role == "developer" else said.role, said.content)
