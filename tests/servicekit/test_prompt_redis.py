"""A deadline for Redis is one for Redis, not for an event loop that is busy with other things."""

import asyncio
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.prompt_redis import DEADLINE, LONGEST_LOOK, PromptRedis, open_redis


class Slow(socketserver.BaseRequestHandler):
    """Answers each command 20 ms later with PONG."""

    def handle(self) -> None:
        while data := self.request.recv(4096):
            time.sleep(0.02)
            self.request.sendall(b"+PONG\r\n" * data.count(b"*"))


@pytest.fixture
def address() -> Iterator[str]:
    """Of somebody in a thread of his own, whom our loop does not keep waiting."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        server.shutdown()


async def busy(seconds: float) -> None:
    """The loop's turns are that long, as with many requests at once."""
    while True:
        time.sleep(seconds)  # noqa: ASYNC251  # that is what is meant
        await asyncio.sleep(0)


async def test_an_answer_that_came_in_time_is_heard_by_a_loop_that_is_late(address: str) -> None:
    changes: list[bool] = []
    async with open_redis(address, changes.append) as redis:
        await redis.call(redis.client.ping)  # it is connected
        for turn in (0.015, 0.03):
            working = asyncio.create_task(busy(turn))
            for _ in range(5):
                assert await redis.call(redis.client.ping)
            working.cancel()
    assert changes == []


async def test_nothing_is_waited_for_much_longer_than_its_deadline() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    changes: list[bool] = []
    redis = PromptRedis(None, changes.append)  # type: ignore[arg-type]  # nobody asks it
    working = asyncio.create_task(busy(0.03))
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await redis.call(never)
    assert time.monotonic() - begun < 3 * (DEADLINE + LONGEST_LOOK) + 1.0
    working.cancel()
    begun = time.monotonic()
    redis = PromptRedis(None, changes.append)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await redis.call(never)
    assert 3 * DEADLINE <= time.monotonic() - begun < 1.0
    assert changes == [False, False]
