"""Serves an ASGI application over HTTP, for the length of a block."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def serving_http(app: ASGIApp, listen: str, *, grace: int = 5) -> AsyncIterator[str]:
    """Runs `app` at `listen` ("127.0.0.1:0" takes a free port), and yields the address.

    At the end, answers in flight get `grace` seconds. Raises OSError where the port cannot be had.
    """
    host, _, port = listen.rpartition(":")
    try:
        listening = socket.create_server((host, int(port)), backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    # asyncio sees to this only where a socket names its protocol, which this one's connections do not; without it the
    # second piece of every answer waits for the client to acknowledge the first, 40 ms on Linux.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    try:
        yield f"{host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: who runs it says when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
