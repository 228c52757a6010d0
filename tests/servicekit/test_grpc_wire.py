"""Our own HTTP/2 for gRPC, frame by frame: what clients may say, and in which pieces."""

import asyncio
import gzip
import ssl
import zlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from doubles.certificates import Authority
from doubles.http2_client import Http2Client, speaking
from doubles.waiting import until
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_server import GrpcServer, ServerLimits, serving
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW
from pointsman_servicekit.grpc_wire.frames import Code, Setting
from pointsman_servicekit.grpc_wire.messages import MessageReader, with_prefix
from pointsman_servicekit.grpc_wire.server import GrpcWire
from pointsman_servicekit.tls import ServerTls

ROUTE, GENERATE, ONCE = (f"/pointsman.v1.Gateway/{name}" for name in ("Route", "Generate", "GenerateOnce"))
ASKED = pb.RouteRequest(model="auto").SerializeToString()
MESSAGE = with_prefix(ASKED)


def path_of(data: bytes) -> str:
    return pb.RouteResponse.FromString(data[5:]).decision.path


async def status_of(client: Http2Client, stream: int) -> tuple[int, str]:
    _, told = await client.answer(stream)
    return int(told["grpc-status"]), told.get("grpc-message", "")


# -- how a call may be written


async def test_an_answer_has_a_head_one_message_and_trailers(client: Http2Client) -> None:
    data, told = await client.answer(client.call(ROUTE, MESSAGE))
    assert path_of(data) == "auto"
    assert (told[":status"], told["content-type"], told["grpc-status"]) == ("200", "application/grpc", "0")
    assert (told["said"], told["raw-bin"]) == ("all", "AP8")


async def test_headers_in_pieces_with_padding_and_a_priority(client: Http2Client, talker: Any) -> None:
    block, stream = client.block(ROUTE, [("x-mine", "a")]), client.stream()
    first = bytes([3]) + bytes(5) + block[:7] + bytes(3)
    flags = frames.PADDED | frames.WITH_PRIORITY
    client.say(
        frames.frame(frames.HEADERS, flags, stream, first),
        frames.frame(frames.CONTINUATION, 0, stream, block[7:11]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, block[11:]),
        frames.frame(frames.DATA, frames.PADDED, stream, bytes([2]) + MESSAGE[:3] + bytes(2)),
        frames.frame(frames.DATA, frames.END_STREAM, stream, MESSAGE[3:]),
    )
    assert path_of((await client.answer(stream))[0]) == "auto"
    assert talker.metadata[0]["x-mine"] == "a"


async def test_bytes_may_come_one_by_one(wire_server: GrpcServer) -> None:
    host, _, port = wire_server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = Http2Client(reader, writer)
    stream = client.stream()
    said = b"".join([
        frames.PREFACE, frames.settings({}),
        frames.frame(frames.HEADERS, frames.END_HEADERS, stream, client.block(ROUTE)),
        frames.frame(frames.DATA, frames.END_STREAM, stream, MESSAGE),
    ])  # fmt: skip
    for byte in said:
        client.say(bytes([byte]))
        await asyncio.sleep(0)
    assert path_of((await client.answer(stream))[0]) == "auto"
    await client.close()


async def test_a_message_may_come_in_many_frames(client: Http2Client) -> None:
    large = with_prefix(pb.RouteRequest(model="m" * 900_000).SerializeToString())
    stream = client.call(ROUTE, None)
    room = WINDOW
    for at in range(0, len(large), 10_000):
        piece = large[at : at + 10_000]
        while room < len(piece):
            told = await client.next(frames.WINDOW_UPDATE, stream=stream)
            room += int.from_bytes(told.payload, "big")
        room -= len(piece)
        client.say(frames.frame(frames.DATA, 0, stream, piece))
    client.say(frames.frame(frames.DATA, frames.END_STREAM, stream, b""))
    client.say(frames.window_update(0, 2**30), frames.window_update(stream, 2**30))
    assert len(path_of((await client.answer(stream))[0])) == 900_000


async def test_headers_behind_the_message_end_it(client: Http2Client) -> None:
    stream = client.call(ROUTE, None)
    client.say(frames.frame(frames.DATA, 0, stream, MESSAGE))
    client.say(frames.frame(frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, stream, b""))
    assert path_of((await client.answer(stream))[0]) == "auto"


async def test_what_is_unknown_is_passed_over(client: Http2Client) -> None:
    client.say(
        frames.frame(0xEE, 0xFF, 0, b"?"),
        frames.frame(frames.PRIORITY, 0, 9, bytes(5)),
        frames.settings({Setting.HEADER_TABLE_SIZE: 0}),
    )
    assert path_of((await client.answer(client.call(ROUTE, MESSAGE)))[0]) == "auto"


async def test_the_same_bytes_mean_what_the_table_says_by_then(client: Http2Client, talker: Any) -> None:
    said = [(b":method", b"POST"), (b":path", ROUTE.encode()), (b"content-type", b"application/grpc")]
    head = b"".join([b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in said])
    newest = head + b"\xbe"  # the table's newest entry, whatever that is
    for value in (b"one", b"two"):
        added = head + b"\x40\x03x-v\x03" + value  # goes into the table
        for block in (added, newest, newest):
            stream = client.stream()
            client.say(
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block),
                frames.frame(frames.DATA, frames.END_STREAM, stream, MESSAGE),
            )
            await client.answer(stream)
    assert [told["x-v"] for told in talker.metadata] == ["one"] * 3 + ["two"] * 3


# -- messages


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_message_may_be_compressed(client: Http2Client, name: str, compress: Any) -> None:
    squeezed = compress(ASKED)
    message = b"\x01" + len(squeezed).to_bytes(4, "big") + squeezed
    data, _ = await client.answer(client.call(ROUTE, message, [("grpc-encoding", name)]))
    assert path_of(data) == "auto"


def _flagged(message: bytes) -> bytes:
    return b"\x01" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(
    ("said", "encoding", "status", "told"),
    [
        (_flagged(b"x"), "br", 12, "a message is compressed with 'br'; one of identity, gzip, deflate is read"),
        (_flagged(b"xyz"), "gzip", 13, "a message cannot be decompressed"),
        (_flagged(gzip.compress(b"x" * 100)[:20]), "gzip", 13, "a compressed message is cut off"),
        (_flagged(gzip.compress(bytes(2_000_000))), "gzip", 8, "a message has 1000001 bytes or more; at most 1000000"),
        (b"\x00" + (1_000_001).to_bytes(4, "big"), "identity", 8, "a message has 1000001 bytes or more"),
        (MESSAGE[:-1], "identity", 13, "the last message is cut off"),
        (b"", "identity", 13, "no message came; one is read"),
        (MESSAGE * 2, "identity", 13, "more than one message came; one is read"),
    ],
)
async def test_what_is_no_message_is_refused_and_the_connection_goes_on(
    client: Http2Client, said: bytes, encoding: str, status: int, told: str
) -> None:
    found = await status_of(client, client.call(ROUTE, said, [("grpc-encoding", encoding)]))
    assert found[0] == status
    assert found[1].startswith(told)
    assert path_of((await client.answer(client.call(ROUTE, MESSAGE)))[0]) == "auto"


async def test_a_message_that_is_none_of_the_methods_is_told_as_such(client: Http2Client) -> None:
    code, told = await status_of(client, client.call(ROUTE, with_prefix(b"\xff\xff")))
    assert (code, told) == (13, "the message cannot be read")


# -- heads


async def test_what_is_no_call_is_answered_as_http(client: Http2Client) -> None:
    _, told = await client.answer(client.call(ROUTE, None, [("content-type", "text/plain")]))
    assert told[":status"] == "415"
    assert path_of((await client.answer(client.call(ROUTE, MESSAGE)))[0]) == "auto"


@pytest.mark.parametrize("said", ["1x", "123456789S", "S", "-1S"])
async def test_a_timeout_that_is_none_is_named(client: Http2Client, said: str) -> None:
    code, told = await status_of(client, client.call(ROUTE, MESSAGE, [("grpc-timeout", said)]))
    assert (code, told) == (13, "grpc-timeout has up to eight digits and one of H, M, S, m, u, n")


async def test_a_binary_value_that_is_none_is_named(client: Http2Client) -> None:
    assert await status_of(client, client.call(ROUTE, MESSAGE, [("a-bin", "?")])) == (13, "a-bin is not in base64")


async def test_a_method_that_is_not_there_is_named(client: Http2Client) -> None:
    assert await status_of(client, client.call("/no.Such/Method", MESSAGE)) == (
        12,
        "there is no method /no.Such/Method",
    )


async def test_too_much_metadata_costs_the_call_alone(client: Http2Client) -> None:
    code, told = await status_of(client, client.call(ROUTE, MESSAGE, [("x", "y" * 5000)]))
    assert (code, "at most 4096" in told) == (8, True)
    assert path_of((await client.answer(client.call(ROUTE, MESSAGE)))[0]) == "auto"


# -- windows


async def test_an_answer_waits_for_the_client_to_take_it(wire_server: GrpcServer) -> None:
    async with speaking(wire_server.address, {Setting.INITIAL_WINDOW_SIZE: 10}) as client:
        stream = client.call(ROUTE, MESSAGE)
        assert len((await client.next(frames.DATA)).payload) == 10
        client.say(frames.settings({Setting.INITIAL_WINDOW_SIZE: 5}))  # it has taken more than that already
        client.say(frames.window_update(stream, 5))
        client.say(frames.frame(frames.PING, 0, 0, b"nothing?"))
        await client.next(frames.PING)
        assert not [one for one in client.seen if one.kind == frames.DATA][1:]
        client.say(frames.window_update(stream, 1))
        assert len((await client.next(frames.DATA)).payload) == 1
        client.say(frames.window_update(stream, 1000))
        _, told = await client.answer(stream)
        assert told["grpc-status"] == "0"
        assert path_of(b"".join(one.payload for one in client.seen if one.kind == frames.DATA)) == "auto"


async def test_whoever_keeps_no_table_hears_that_we_know(wire_server: GrpcServer) -> None:
    async with speaking(wire_server.address, {Setting.HEADER_TABLE_SIZE: 0}) as client:
        for first in (True, False):
            client.call(ROUTE, MESSAGE)
            head = await client.next(frames.HEADERS)
            assert (head.payload[:1] == b"\x20") is first
            await client.next(frames.HEADERS)


async def test_every_answer_ends_also_those_that_fill_the_sockets(talker: Any) -> None:
    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(talker, server)

    large = with_prefix(pb.RouteRequest(model="m" * 65_000).SerializeToString())
    async with (
        serving("127.0.0.1:0", [], register, grace=0, wire=GrpcWire) as server,
        speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) as client,
    ):
        client.say(frames.window_update(0, 2**31 - 1 - frames.INITIAL_WINDOW))
        begun = []
        for _ in range(150):  # 10 MB of answers; what a socket holds is less
            begun.append(client.call(ROUTE, None))
            for at in range(0, len(large), 16_000):
                client.say(frames.frame(frames.DATA, 0, begun[-1], large[at : at + 16_000]))
            client.say(frames.frame(frames.DATA, frames.END_STREAM, begun[-1], b""))
            await asyncio.sleep(0.001)
        ended: set[int] = set()
        while len(ended) < len(begun):
            frame = await client.next(frames.HEADERS)
            if frame.flags & frames.END_STREAM:
                ended.add(frame.stream)
    assert ended == set(begun)


async def test_a_reader_that_stops_stops_the_servicer(client: Http2Client, talker: Any) -> None:
    message = with_prefix(pb.GenerateRequest(model="10000").SerializeToString())
    client.call(GENERATE, message)
    await until(lambda: talker.written)
    await asyncio.sleep(0.1)
    written = talker.written
    assert written <= frames.INITIAL_WINDOW // 10_000 + 1
    await asyncio.sleep(0.1)
    assert talker.written == written
    client.say(frames.window_update(0, 100_000), frames.window_update(1, 100_000))
    await until(lambda: talker.written >= written + 9)


async def test_a_client_may_ping_as_often_as_answers_come(client: Http2Client) -> None:
    client.call(GENERATE, with_prefix(pb.GenerateRequest(model="5000").SerializeToString()))
    for _ in range(10):
        piece = await client.next(frames.DATA)
        client.say(frames.frame(frames.PING, 0, 0, b"how fast"))
        await client.next(frames.PING)
        more = len(piece.payload)
        client.say(frames.window_update(0, more), frames.window_update(1, more))
    assert not [one for one in client.seen if one.kind == frames.GOAWAY]


# -- the end


async def test_a_deadline_that_passes_ends_the_call_and_its_servicer(client: Http2Client, talker: Any) -> None:
    stream = client.call(ONCE, with_prefix(b""), [("grpc-timeout", "50m")])
    assert await status_of(client, stream) == (4, "the deadline has passed")
    await until(lambda: talker.cancelled == 1)


async def test_a_deadline_counts_for_a_message_that_does_not_end(client: Http2Client) -> None:
    stream = client.call(ROUTE, None, [("grpc-timeout", "50m")])
    assert (await status_of(client, stream))[0] == 4


async def test_a_message_that_does_not_end_is_not_waited_for_without_end(talker: Any) -> None:
    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(talker, server)

    limits = ServerLimits(message_seconds=0.1)
    async with (
        serving("127.0.0.1:0", [], register, grace=0, limits=limits, wire=GrpcWire) as server,
        speaking(server.address) as client,
    ):
        waiting = client.call(ONCE, with_prefix(b""))  # it has said all, and is waited for
        assert (await status_of(client, client.call(ROUTE, None)))[0] == 4
        await asyncio.sleep(0.1)
        talker.go_on.set()
        assert (await status_of(client, waiting))[0] == 0


async def test_a_deadline_counts_for_an_answer_that_is_not_taken(wire_server: GrpcServer) -> None:
    async with speaking(wire_server.address, {Setting.INITIAL_WINDOW_SIZE: 0}) as client:
        stream = client.call(ROUTE, MESSAGE, [("grpc-timeout", "500m")])
        assert await status_of(client, stream) == (4, "the answer was not taken in time")


async def test_a_call_that_is_taken_back_ends_its_servicer(client: Http2Client, talker: Any) -> None:
    stream = client.call(ONCE, with_prefix(b""))
    await until(lambda: talker.working)
    client.say(frames.reset(stream, Code.CANCEL))
    await until(lambda: talker.cancelled == 1)
    assert path_of((await client.answer(client.call(ROUTE, MESSAGE)))[0]) == "auto"


@pytest.mark.parametrize("method", [ONCE, GENERATE])
async def test_a_client_that_is_gone_ends_its_servicers(client: Http2Client, talker: Any, method: str) -> None:
    for _ in range(5):
        client.call(method, with_prefix(pb.GenerateRequest(model="1").SerializeToString()))
    await until(lambda: talker.working == 5)
    await client.close()
    await until(lambda: talker.working == 0)


async def test_who_leaves_says_so_first_and_hears_what_was_on_its_way(talker: Any) -> None:
    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(talker, server)

    running = serving("127.0.0.1:0", [], register, grace=5, wire=GrpcWire)
    server = await running.__aenter__()
    async with speaking(server.address) as client:
        begun = client.call(ONCE, with_prefix(b""))
        await until(lambda: talker.working)
        stopping = asyncio.create_task(running.__aexit__(None, None, None))
        first = await client.next(frames.GOAWAY)
        assert first.payload == (2**31 - 1).to_bytes(4, "big") + bytes(4)
        late = client.call(ROUTE, MESSAGE)  # it was on its way
        asked = await client.next(frames.PING)
        client.say(frames.frame(frames.PING, frames.ACK, 0, asked.payload))
        assert path_of((await client.answer(late))[0]) == "auto"
        talker.go_on.set()
        assert (await status_of(client, begun))[0] == 0
        await client.ended()
        last = [one.payload for one in client.seen if one.kind == frames.GOAWAY][-1]
        assert last == late.to_bytes(4, "big") + bytes(4)
        await stopping


@pytest.mark.parametrize("secured", [False, True])
async def test_who_still_reads_when_we_leave_reads_all_of_it(talker: Any, tmp_path: Path, secured: bool) -> None:
    tls, trusting = _tls(tmp_path) if secured else (None, None)
    limits = ServerLimits(age_seconds=0.3)

    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(talker, server)

    large = with_prefix(pb.RouteRequest(model="m" * 3_000_000).SerializeToString())
    async with (
        serving("127.0.0.1:0", [], register, grace=0, limits=limits, tls=tls, wire=GrpcWire) as server,
        speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}, trusting) as client,
    ):
        client.say(frames.window_update(0, 2**30))
        stream = client.call(ROUTE, None)
        for at in range(0, len(large), 16_000):
            client.say(frames.frame(frames.DATA, 0, stream, large[at : at + 16_000]))
            await asyncio.sleep(0)
        client.say(frames.frame(frames.DATA, frames.END_STREAM, stream, b""))
        data, ended = 0, False
        while not ended:
            frame = await client.next(frames.DATA, frames.HEADERS, stream=stream)
            data += len(frame.payload) if frame.kind == frames.DATA else 0
            ended = bool(frame.flags & frames.END_STREAM)
            client.say(frames.window_update(0, 1))  # what readers say all the time
            await asyncio.sleep(0.02)
    assert data > 3_000_000


def _tls(folder: Path) -> tuple[ServerTls, ssl.SSLContext]:
    authority = Authority(folder, "ours")
    signed = authority.sign("server")
    trusting = ssl.create_default_context(cafile=authority.certificate)
    trusting.set_alpn_protocols(["h2"])
    return ServerTls(signed.certificate, signed.key), trusting


# -- what servicers do


async def one_method(servicer: Any, kind: Any = grpc.unary_unary_rpc_method_handler) -> Any:
    """A server that has it as /a.B/C."""

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": kind(servicer)})])

    return serving("127.0.0.1:0", [], register, grace=0, wire=GrpcWire)


async def test_an_answer_whose_head_cannot_be_said_is_an_error_with_a_head_of_its_own() -> None:
    async def servicer(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("beside", "Z\u00fcge"),))
        return b""

    async with await one_method(servicer) as server, speaking(server.address) as client:
        _, told = await client.answer(client.call("/a.B/C", with_prefix(b"")))
        assert (told[":status"], told["grpc-status"]) == ("200", "13")


@pytest.mark.parametrize("value", ["Zug\u00fcge", "two\nlines"])
async def test_an_error_arrives_also_where_what_is_said_beside_it_cannot(value: str) -> None:
    async def servicer(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no Z\u00fcge, 100 %", (("beside", value),))
        return b""

    async with await one_method(servicer) as server, speaking(server.address) as client:
        assert await status_of(client, client.call("/a.B/C", with_prefix(b""))) == (5, "no Z%C3%BCge, 100 %25")


async def test_a_servicer_that_cleans_up_is_cancelled_once() -> None:
    steps: list[str] = []

    async def servicer(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cleaning")
            await asyncio.sleep(0.1)
            steps.append("clean")
        return b""

    async with await one_method(servicer) as server:
        async with speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 0}) as client:
            stream = client.call("/a.B/C", with_prefix(b""), [("grpc-timeout", "30m")])
            await until(lambda: steps)
            client.say(frames.reset(stream, Code.CANCEL))
        await until(lambda: steps == ["cleaning", "clean"])


async def test_what_is_compressed_is_so_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    inflated, go_on = [], asyncio.Event()
    inflate = MessageReader.inflated
    monkeypatch.setattr(MessageReader, "inflated", lambda reader, raw: inflated.append(1) or inflate(reader, raw))

    async def servicer(requests: Any, context: Any) -> bytes:
        total = 0
        async for request in requests:
            total += len(request)
            await go_on.wait()
        return str(total).encode()

    large = _flagged(gzip.compress(bytes(1_000_000)))
    kind = grpc.stream_unary_rpc_method_handler
    async with await one_method(servicer, kind) as server, speaking(server.address) as client:
        stream = client.call("/a.B/C", large * 5, [("grpc-encoding", "gzip")])
        await until(lambda: inflated)
        client.say(frames.frame(frames.PING, 0, 0, bytes(8)))
        await client.next(frames.PING)
        assert len(inflated) == 1
        go_on.set()
        assert (await client.answer(stream))[0][5:] == b"5000000"
