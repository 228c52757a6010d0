"""What clients may not say to our own HTTP/2, and how much of what they may."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from doubles.http2_client import Http2Client, speaking
from doubles.talker import GENERATE, MESSAGE, ONCE, ROUTE, talking
from doubles.waiting import found, until
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.grpc_server import GrpcServer, ServerLimits, serving
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW
from pointsman_servicekit.grpc_wire.frames import Code, Setting, frame
from pointsman_servicekit.grpc_wire.messages import with_prefix
from pointsman_servicekit.grpc_wire.server import GrpcWire

LONG = (2**31 - 1).to_bytes(4, "big")
ALL = frames.END_HEADERS | frames.END_STREAM


async def sent_away(client: Http2Client) -> tuple[int, str]:
    """The code and the words with which the connection ends."""
    last = [one for one in await client.ended() if one.kind == frames.GOAWAY][-1]
    return int.from_bytes(last.payload[4:8], "big"), last.payload[8:].decode()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", Code.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    ],
)
async def test_who_speaks_something_else_is_told_and_sent_away(
    wire_server: GrpcServer, said: bytes, code: Code
) -> None:
    host, _, port = wire_server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = Http2Client(reader, writer)
    client.say(said)
    assert (await sent_away(client))[0] == code
    await client.close()


BROKEN = {
    "a frame that is too long": (bytes((0, 0x40, 1, 0, 0, 0, 0, 0, 1)), Code.FRAME_SIZE_ERROR),
    "a stream of a server": (frame(frames.HEADERS, ALL, 2, b""), Code.PROTOCOL_ERROR),
    "headers of no stream": (frame(frames.HEADERS, ALL, 0, b""), Code.PROTOCOL_ERROR),
    "headers that mean nothing": (frame(frames.HEADERS, ALL, 1, b"\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "headers that are interrupted": (
        frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR,
    ),
    "headers that go on nowhere": (frame(frames.CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR),
    "more padding than there is": (frame(frames.HEADERS, ALL | frames.PADDED, 1, b"\x09\x82"), Code.PROTOCOL_ERROR),
    "padding without its length": (frame(frames.HEADERS, ALL | frames.PADDED, 1, b""), Code.FRAME_SIZE_ERROR),
    "data of what has not begun": (frame(frames.DATA, 0, 7, b"x"), Code.PROTOCOL_ERROR),
    "data of no stream": (frame(frames.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "a reset of what has not begun": (frames.reset(7, Code.CANCEL), Code.PROTOCOL_ERROR),
    "a reset that is cut off": (frame(frames.RST_STREAM, 0, 1, b"x"), Code.FRAME_SIZE_ERROR),
    "a window of what has not begun": (frames.window_update(7, 1), Code.PROTOCOL_ERROR),
    "a window that grows by nothing": (frames.window_update(0, 0), Code.PROTOCOL_ERROR),
    "a window that grows too far": (frame(frames.WINDOW_UPDATE, 0, 0, LONG), Code.FLOW_CONTROL_ERROR),
    "a push": (frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "a ping that is none": (frame(frames.PING, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "a ping of a stream": (frame(frames.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "settings of a stream": (frame(frames.SETTINGS, 0, 1, b""), Code.PROTOCOL_ERROR),
    "settings that are cut off": (frame(frames.SETTINGS, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "settings with their acknowledgement": (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "too large a window to begin with": (
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR,
    ),
    "too small a largest frame": (frames.settings({Setting.MAX_FRAME_SIZE: 1}), Code.PROTOCOL_ERROR),
    "headers without end": (
        frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.CONTINUATION, 0, 1, bytes(10_000)),
        Code.ENHANCE_YOUR_CALM,
    ),
    "headers in a thousand pieces of nothing": (
        frame(frames.HEADERS, 0, 1, b"\x82") + 1_001 * frame(frames.CONTINUATION, 0, 1, b""), Code.ENHANCE_YOUR_CALM,
    ),
    "settings all the time": (1_001 * frames.settings({}), Code.ENHANCE_YOUR_CALM),
    "priorities all the time": (1_001 * frame(frames.PRIORITY, 0, 1, bytes(5)), Code.ENHANCE_YOUR_CALM),
    "pings all the time": (4 * frame(frames.PING, 0, 0, bytes(8)), Code.ENHANCE_YOUR_CALM),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
async def test_what_breaks_the_connection_is_told_by_its_code(client: Http2Client, what: str) -> None:
    said, code = BROKEN[what]
    client.say(said)
    assert (await sent_away(client))[0] == code


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(frames.DATA, 0), (frames.DATA, frames.END_STREAM), (frames.HEADERS, frames.END_HEADERS), (frames.HEADERS, ALL)],
)
async def test_who_goes_on_behind_the_end_loses_that_call_alone(
    client: Http2Client, talker: Any, kind: int, flags: int
) -> None:
    stream = client.call(ONCE, MESSAGE)
    await until(lambda: talker.working)
    client.say(frame(kind, flags, stream, b""))
    with pytest.raises(ConnectionResetError, match=f"by {Code.STREAM_CLOSED:d}"):
        await client.answer(stream)
    await until(lambda: not talker.working)
    assert (await client.answer(client.call(ROUTE, MESSAGE)))[0]


async def test_headers_that_cannot_be_read_are_not_quoted(
    client: Http2Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = b"\x00\x0dauthorization\x10Bearer pm_secret!"
    client.say(frame(frames.HEADERS, ALL, 1, key + b"\xff\xff\xff"))
    code, told = await sent_away(client)
    assert (code, told) == (Code.COMPRESSION_ERROR, "headers cannot be read")
    await until(lambda: "headers cannot be read" in caplog.text)
    assert "pm_secret" not in caplog.text


async def test_headers_that_unfold_to_very_many_are_not_read_on(client: Http2Client) -> None:
    entry = b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000
    client.say(frame(frames.HEADERS, frames.END_HEADERS, client.stream(), entry + b"\xbe" * 4_000))
    assert (await sent_away(client))[0] == Code.COMPRESSION_ERROR


async def test_whoever_reads_slowly_is_waited_for_and_more_than_its_room_ends_the_call() -> None:
    read, go_on, ended = [], asyncio.Event(), asyncio.Event()

    async def slow(requests: Any, context: Any) -> bytes:
        try:
            async for request in requests:
                read.append(request)
                await go_on.wait()
        finally:
            ended.set()
        return b""

    def register(server: Any) -> None:
        handlers = {"Slow": grpc.stream_unary_rpc_method_handler(slow)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", handlers)])

    async with (
        serving("127.0.0.1:0", [], register, grace=0, wire=GrpcWire) as server,
        speaking(server.address) as client,
    ):
        stream = client.call("/a.B/Slow", None)
        piece = frame(frames.DATA, 0, stream, with_prefix(bytes(10_000)))
        for _ in range(WINDOW // 10_005):
            client.say(piece)
        await until(lambda: read)
        client.say(frame(frames.PING, 0, 0, bytes(8)))
        await client.next(frames.PING)
        assert not [one for one in client.seen if one.kind == frames.WINDOW_UPDATE and one.stream]
        client.say(piece, piece)
        told = await client.next(frames.RST_STREAM, stream=stream)
        assert int.from_bytes(told.payload, "big") == Code.FLOW_CONTROL_ERROR
        assert len(read) == 1
        await asyncio.wait_for(ended.wait(), 5)


async def test_calls_beyond_the_limit_are_refused_and_may_be_sent_again(client: Http2Client, talker: Any) -> None:
    for _ in range(8):
        client.call(ONCE, with_prefix(b""))
    refused = client.call(ROUTE, MESSAGE)
    told = await client.next(frames.RST_STREAM, stream=refused)
    assert int.from_bytes(told.payload, "big") == Code.REFUSED_STREAM
    talker.go_on.set()
    await until(lambda: talker.working == 0)
    assert (await client.answer(client.call(ROUTE, MESSAGE)))[1]["grpc-status"] == "0"


async def test_calls_that_are_taken_back_count_until_their_servicers_end(client: Http2Client, talker: Any) -> None:
    for _ in range(100):
        client.say(frames.reset(client.call(ONCE, with_prefix(b"")), Code.CANCEL))
    told = await client.next(frames.RST_STREAM)
    assert int.from_bytes(told.payload, "big") == Code.REFUSED_STREAM
    await until(lambda: talker.working == 0)
    assert (await client.answer(client.call(ROUTE, MESSAGE)))[1]["grpc-status"] == "0"


async def test_too_many_calls_that_are_taken_back_break_the_connection(client: Http2Client) -> None:
    for _ in range(100):
        client.say(frames.reset(client.call(ONCE, None), Code.CANCEL))
    assert (await sent_away(client))[0] == Code.ENHANCE_YOUR_CALM


async def test_calls_that_are_taken_back_in_the_same_breath_leave_nothing(client: Http2Client, talker: Any) -> None:
    for _ in range(20):
        stream = client.stream()
        client.say(
            frame(frames.HEADERS, frames.END_HEADERS, stream, client.block(ONCE))
            + frame(frames.DATA, frames.END_STREAM, stream, with_prefix(b""))
            + frames.reset(stream, Code.CANCEL)
        )
    client.say(frame(frames.PING, 0, 0, bytes(8)))
    await client.next(frames.PING)
    for _ in range(20):
        _, told = await client.answer(client.call(ONCE, with_prefix(b""), [("grpc-timeout", "1n")]))
        assert told["grpc-status"] == "4"
    for _ in range(8):  # as many as there may be at once
        client.call(ONCE, with_prefix(b""))
    await until(lambda: talker.working == 8)


async def test_requests_that_wait_are_bounded_by_the_connection(talker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman_servicekit.grpc_wire.streams.LEAST_HELD", 0)

    message = with_prefix(pb.RouteRequest(model="m" * 9_000).SerializeToString())
    limits = ServerLimits(message_bytes=10_000)
    async with (
        talking(talker, limits) as server,
        speaking(server.address) as client,
    ):
        client.say(frames.window_update(0, 2**30))
        begun = [client.call(ROUTE, None) for _ in range(9)]
        for stream in begun:
            client.say(frame(frames.DATA, 0, stream, message[:-1]))
        _, told = await client.answer(begun[-1])
        assert (told["grpc-status"], told["grpc-message"][-15:]) == ("8", "; at most 80000")
        for stream in begun[:-1]:
            client.say(frame(frames.DATA, frames.END_STREAM, stream, message[-1:]))
            assert (await client.answer(stream))[1]["grpc-status"] == "0"
        for _ in range(20):  # what has been read waits no more
            assert (await client.answer(client.call(ROUTE, message)))[1]["grpc-status"] == "0"


async def test_a_client_that_asks_and_never_reads_is_not_heard_and_then_cut(talker: Any) -> None:
    limits = ServerLimits(silence_seconds=0.5, ping_seconds=0.5)
    async with (
        talking(talker, limits) as server,
        speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) as client,
    ):
        client.say(frames.window_update(0, 2**31 - 1 - frames.INITIAL_WINDOW))
        client.call(GENERATE, with_prefix(pb.GenerateRequest(model="100000").SerializeToString()))
        await until(lambda: talker.written >= 3)
        written = -1
        while written != talker.written:  # until the sockets are full
            written = talker.written
            await asyncio.sleep(0.1)
        for _ in range(50):
            client.call(ONCE, with_prefix(b""))
        await until(lambda: talker.working == 0)


async def test_who_watches_health_and_does_not_read_holds_nobody_up(wire: Any) -> None:
    running = serving("127.0.0.1:0", [], lambda server: None, grace=0, wire=wire)
    server = await running.__aenter__()
    async with speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 0}) as client:
        client.call("/grpc.health.v1.Health/Watch", with_prefix(b""))
        await client.next(frames.HEADERS)
        async with asyncio.timeout(5):
            await server.set_serving(False)
            await running.__aexit__(None, None, None)


async def test_connections_beyond_the_limit_are_sent_away() -> None:
    limits = ServerLimits(connections=2)
    async with (
        serving("127.0.0.1:0", [], lambda server: None, grace=0, limits=limits, wire=GrpcWire) as server,
        speaking(server.address) as one,
        speaking(server.address) as other,
    ):
        for served in (one, other):
            await served.next(frames.SETTINGS)
        async with speaking(server.address) as third:
            assert await sent_away(third) == (Code.ENHANCE_YOUR_CALM, "there are too many connections")
        await other.close()

        async def let_in() -> bool:
            async with speaking(server.address) as again:
                return (await again.next(frames.SETTINGS, frames.GOAWAY)).kind == frames.SETTINGS

        assert await found(let_in)


async def test_a_client_that_says_nothing_is_cut() -> None:
    limits = ServerLimits(handshake_seconds=0.1)
    async with serving("127.0.0.1:0", [], lambda server: None, grace=0, limits=limits, wire=GrpcWire) as server:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(5):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(10_000)
        writer.close()


async def test_a_client_that_falls_silent_is_asked_and_then_cut() -> None:
    limits = ServerLimits(silence_seconds=0.1, ping_seconds=2)
    async with (
        serving("127.0.0.1:0", [], lambda server: None, grace=0, limits=limits, wire=GrpcWire) as server,
        speaking(server.address) as client,
    ):
        for _ in range(2):
            asked = await client.next(frames.PING)
            client.say(frame(frames.PING, frames.ACK, 0, asked.payload))
        await client.next(frames.PING)
        await client.ended()
