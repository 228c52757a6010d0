"""Our own HTTP/2 for gRPC, frame by frame: how answers come, how calls end, and what servicers do meanwhile."""

import asyncio
import gzip
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from doubles.certificates import Authority
from doubles.http2_client import Http2Client, speaking
from doubles.talker import GENERATE, MESSAGE, ONCE, ROUTE, compressed, path_of, status_of, talking
from doubles.waiting import until
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.grpc_server import GrpcServer, ServerLimits, serving
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.frames import Code, Setting
from pointsman_servicekit.grpc_wire.messages import MessageReader, with_prefix
from pointsman_servicekit.grpc_wire.server import GrpcWire
from pointsman_servicekit.tls import ServerTls

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
    large = with_prefix(pb.RouteRequest(model="m" * 65_000).SerializeToString())
    async with (
        talking(talker) as server,
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
    limits = ServerLimits(message_seconds=0.1)
    async with (
        talking(talker, limits) as server,
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
    running = talking(talker, grace=5)
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

    large = with_prefix(pb.RouteRequest(model="m" * 3_000_000).SerializeToString())
    async with (
        talking(talker, limits=limits, tls=tls) as server,
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


def one_method(servicer: Any, kind: Any = grpc.unary_unary_rpc_method_handler) -> Any:
    """A server that has it as /a.B/C."""

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": kind(servicer)})])

    return serving("127.0.0.1:0", [], register, grace=0, wire=GrpcWire)


async def test_an_answer_whose_head_cannot_be_said_is_an_error_with_a_head_of_its_own() -> None:
    async def servicer(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("beside", "Z\u00fcge"),))
        return b""

    async with one_method(servicer) as server, speaking(server.address) as client:
        _, told = await client.answer(client.call("/a.B/C", with_prefix(b"")))
        assert (told[":status"], told["grpc-status"]) == ("200", "13")


@pytest.mark.parametrize("value", ["Zug\u00fcge", "two\nlines"])
async def test_an_error_arrives_also_where_what_is_said_beside_it_cannot(value: str) -> None:
    async def servicer(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no Z\u00fcge, 100 %", (("beside", value),))
        return b""

    async with one_method(servicer) as server, speaking(server.address) as client:
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

    async with one_method(servicer) as server:
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

    large = compressed(gzip.compress(bytes(1_000_000)))
    kind = grpc.stream_unary_rpc_method_handler
    async with one_method(servicer, kind) as server, speaking(server.address) as client:
        stream = client.call("/a.B/C", large * 5, [("grpc-encoding", "gzip")])
        await until(lambda: inflated)
        client.say(frames.frame(frames.PING, 0, 0, bytes(8)))
        await client.next(frames.PING)
        assert len(inflated) == 1
        go_on.set()
        assert (await client.answer(stream))[0][5:] == b"5000000"
