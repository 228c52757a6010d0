"""What the HTTP routes stand on: the house behind them, and the one way to answer."""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.codec.headers import CALLER, wish_of
from pointsman_gateway.console.stage import Console
from pointsman_gateway.generations import Generation, Status
from pointsman_gateway.http.asgi_answer import AsgiAnswer
from pointsman_gateway.http.encoding import Encoder
from pointsman_gateway.http.routes import FeedbackBox
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.ports import Tenancy


class Configuration(Protocol):
    """What serves now."""

    @property
    def current(self) -> Generation: ...

    @property
    def status(self) -> Status: ...


@dataclass(frozen=True, slots=True)
class HttpDoor:
    """What the routes need."""

    pipeline: Pipeline
    tenancy: Tenancy
    feedback: FeedbackBox
    configuration: Configuration
    registry: CollectorRegistry
    request_timeout: float
    console: Console | None = None
    """None: its page is not served."""


async def respond(request: Request, asked: domain.Request, encoder: Encoder, streams: bool) -> Response:
    """Answers `asked` in the encoder's dialect; what every generating route does once it has read its body."""
    wish = wish_of(request.headers.get("cache-control", "").encode("latin-1"))
    asked = replace(asked, caller=caller_of_request(request), cache=wish, as_a_whole=not streams)
    return AsgiAnswer(door_of(request).pipeline, asked, encoder, streams)


def caller_of_request(request: Request) -> domain.Caller:
    """Who asks: the ASGI application has checked the key before it let the body be read."""
    caller: domain.Caller = request.scope[CALLER]
    return caller


def door_of(request: Request) -> HttpDoor:
    door: HttpDoor = request.app.state.door
    return door


def deadline_of(request: Request) -> float:
    wanted = request.headers.get("x-request-timeout", "")
    return deadline_after(wanted.encode("latin-1"), door_of(request).request_timeout)


def deadline_after(wanted: bytes | None, longest: float) -> float:
    """On the loop's clock. Raises InvalidArgument."""
    return asyncio.get_running_loop().time() + seconds_of(wanted, longest)


def seconds_of(wanted: bytes | None, longest: float) -> float:
    """As many as are wanted, `longest` at most. Raises InvalidArgument."""
    if not wanted:
        return longest
    try:
        return min(longest, float(wanted))
    except ValueError:
        raise InvalidArgument(
            f"x-request-timeout is {wanted[:50].decode('latin-1')!r}; write seconds",
            code="bad_parameter",
            param="x-request-timeout",
        ) from None
