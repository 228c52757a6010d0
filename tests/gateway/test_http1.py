"""The HTTP client for engines: which connections it keeps, what it detects, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf

import pytest
from pointsman_gateway.engines.connection_pool import Origin, Pool, origin_of
from pointsman_gateway.engines.http1 import MAX_STEP_BYTES, ConnectionFailed, EngineConnection, NotConnected, TimedOut
from pointsman_gateway.engines.http_post import PooledPoster

from tests.gateway.doubles.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Origin]:
    at_work: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.append((asyncio.current_task(), writer))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield origin_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for _, writer in at_work:
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in at_work if task))
        for _, writer in at_work:
            with suppress(ConnectionError):
                await writer.wait_closed()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def posted(pool: Pool, origin: Origin, begin: float = 10.0) -> EngineConnection:
    """Sends a request, and returns its connection once an answer has begun; it must begin within `begin` seconds."""
    until = asyncio.get_running_loop().time() + begin
    connection = pool.idle(origin) or await pool.connect(origin, 10.0, until)
    connection.post(HEAD, b"{}")
    connection.set_timeouts(inf, until)
    while not connection.status:
        if connection.failure is not None:
            raise connection.failure
        await connection.wait_for_event()
    return connection


async def read(connection: EngineConnection) -> bytes:
    """Returns the data that has arrived since the last call; empty at the end of the answer."""
    while not (piece := connection.read()) and not connection.is_complete:
        if connection.failure is not None:
            raise connection.failure
        await connection.wait_for_event()
    return piece


async def answered(pool: Pool, origin: Origin) -> bytes:
    poster = PooledPoster(pool, str)
    deadline = asyncio.get_running_loop().time() + 10.0
    reply = await poster.post(f"http://{origin.host}:{origin.port}", "", b"{}", deadline, 1000)
    return b"".join(reply.pieces)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


class Counting:
    """A server that answers every request on each connection, or only the first `times`."""

    def __init__(self, times: int = 1000) -> None:
        self.connections = self.asked = self.ended = 0
        self._times = times

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for _ in range(self._times):
                await request(reader)
                self.asked += 1
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            pass
        writer.close()
        self.ended += 1


async def test_connections_are_reused(pool: Pool) -> None:
    engine = Counting()
    async with serving(engine) as origin:
        assert [await answered(pool, origin) for _ in range(5)] == [b"ok"] * 5
        assert (engine.connections, engine.asked) == (1, 5)


async def test_connections_to_removed_engines_are_dropped(pool: Pool) -> None:
    for _ in range(5):
        async with serving(Counting()) as origin:
            assert await answered(pool, origin) == b"ok"
            assert len(pool._idle) <= 2
    async with serving(Counting()) as first, serving(Counting()) as second:
        for origin in (first, second, first):
            assert await answered(pool, origin) == b"ok"
        assert set(pool._idle) == {first, second}


async def test_concurrent_requests_have_separate_connections(pool: Pool) -> None:
    engine = Counting()
    async with serving(engine) as origin:
        assert await asyncio.gather(*(answered(pool, origin) for _ in range(8))) == [b"ok"] * 8
        assert engine.connections == 8


async def test_a_connection_closed_while_idle_fails_no_request(pool: Pool) -> None:
    engine = Counting(times=1)
    async with serving(engine) as origin:
        for number in range(1, 4):
            assert await answered(pool, origin) == b"ok"
            await until(partial(lambda ended: engine.ended == ended, number))
        assert engine.connections == 3


async def test_a_connection_that_was_idle_for_long_is_not_used() -> None:
    pool, engine = Pool(max_idle_seconds=0.0), Counting()
    async with serving(engine) as origin:
        await answered(pool, origin)
        await answered(pool, origin)
        assert engine.connections == 2
        pool.close()


async def test_a_connection_is_reusable_if_the_answer_ends_shortly_after_its_last_event(pool: Pool) -> None:
    go_on = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nall\r\n")
            await go_on.wait()
            writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()

    async with serving(serve) as origin:
        connection = await posted(pool, origin)
        assert await read(connection) == b"all"
        pool.release(origin, connection)
        assert pool.idle(origin) is None
        go_on.set()
        await until(lambda: connection.is_complete)
        again = await posted(pool, origin)
        assert again is connection
        assert connections == 1
        again.close()


async def test_a_server_that_does_not_speak_http_is_reported(pool: Pool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"hello\r\n\r\n")
        await reader.read()
        writer.close()

    async with serving(serve) as origin:
        with pytest.raises(ConnectionFailed, match="does not speak HTTP"):
            await posted(pool, origin)


async def test_an_interrupted_answer_is_an_error_after_its_chunks(pool: Pool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        writer.close()

    async with serving(serve) as origin:
        connection = await posted(pool, origin)
        assert await read(connection) == b"half"
        with pytest.raises(ConnectionFailed, match="closed"):
            await read(connection)


async def test_a_silent_server_times_out(pool: Pool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(serve) as origin:
        with pytest.raises(TimedOut, match="nothing arrived in time"):
            await posted(pool, origin, begin=0.05)


async def test_a_refused_connection_is_reported_at_once(pool: Pool) -> None:
    with pytest.raises(ConnectionFailed, match="no connection") as raised:
        await posted(pool, origin_of("http://127.0.0.1:1"))
    assert not isinstance(raised.value, NotConnected)


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:80", "http://", ""])
def test_an_invalid_engine_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="no URL of an engine"):
        origin_of(url)


def test_a_url_may_have_a_path_and_no_port() -> None:
    origin = origin_of("http://engine.example/openai/")
    assert (origin.host, origin.port, origin.path, origin.tls) == ("engine.example", 80, "/openai", None)
    assert origin_of("https://engine.example").port == 443


async def test_an_answer_that_has_arrived_can_be_read_in_steps(pool: Pool) -> None:
    body = bytes(range(250)) * 3_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with serving(serve) as origin:
        connection = await posted(pool, origin)
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < len(body):
            await until(lambda: connection.unread > 0)
            pieces.append(connection.read_some())
        assert b"".join(pieces) == body
        assert max(map(len, pieces)) <= MAX_STEP_BYTES
        assert (connection.unread, connection.read_some(), connection.is_complete) == (0, b"", True)


async def test_data_after_an_answer_is_not_read_as_the_next_answer(pool: Pool) -> None:
    goes_on = asyncio.Event()

    async def says_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nok")
        await goes_on.wait()
        writer.write(b"late")
        while True:
            await request(reader)
            writer.write(ANSWER)

    async with serving(says_more) as origin:
        connection = await posted(pool, origin)
        assert await read(connection) == b"ok"
        pool.release(origin, connection)
        goes_on.set()
        await until(lambda: connection.is_complete)
        assert await answered(pool, origin) == b"ok"


async def test_a_connection_with_an_unsolicited_answer_is_closed(pool: Pool) -> None:
    connections = 0

    async def answers_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request(reader)
        writer.write(ANSWER + ANSWER.replace(b"ok", b"no"))
        await reader.read()

    async with serving(answers_twice) as origin:
        assert [await answered(pool, origin) for _ in range(2)] == [b"ok", b"ok"]
    assert connections == 2


async def test_a_lost_connection_reports_that(pool: Pool) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(hangs_up) as origin:
        connection = await pool.connect(origin, 10.0, asyncio.get_running_loop().time() + 10.0)
        await until(lambda: not connection.is_open)
        await until(lambda: connection._transport is None)
        with pytest.raises(ConnectionFailed):
            connection.post(HEAD, b"{}")
