"""Two processes of a service that ask each other."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.workers import Handler, WorkerPeer


@asynccontextmanager
async def connected(handlers: Mapping[str, Handler]) -> AsyncIterator[WorkerPeer]:
    """Yields one end of a connection; the other end has the handlers."""
    asking, answering = WorkerPeer({}), WorkerPeer(handlers)
    for peer, end in zip((asking, answering), socket.socketpair(), strict=True):
        await peer.connect(end)
    try:
        yield asking
    finally:
        for peer in (asking, answering):
            peer.reading.cancel()
            await asyncio.wait([peer.reading])


async def test_a_question_is_answered() -> None:
    async def double(argument: int) -> int:
        return 2 * argument

    async with connected({"double": double}) as peer:
        assert await peer.ask("double", 21) == 42
        assert await peer.ask("unknown", 21) is None


@pytest.mark.parametrize("answer", [ZeroDivisionError("secret"), Unavailable("away", code="c"), b"no JSON", {1, 2}])
async def test_a_failure_is_reported_at_once_and_logged(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with connected({"fail": fail}) as peer:
        with pytest.raises(Unavailable, match="failed to answer 'fail'") as raised:
            await peer.ask("fail", seconds=600)
    assert raised.value.code == "worker_unavailable"
    assert "cannot answer 'fail'" in caplog.text


async def test_no_answer_in_time_is_reported() -> None:
    async def wait(_: Any) -> None:
        await asyncio.Event().wait()

    async with connected({"wait": wait}) as peer:
        with pytest.raises(Unavailable, match="does not answer 'wait'"):
            await peer.ask("wait", seconds=0.01)
