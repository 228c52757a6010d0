"""Our own HTTP/2 for gRPC, frame by frame: what clients may say, and in which pieces."""

import asyncio
import gzip
import zlib
from typing import Any

import pytest
from doubles.http2_client import Http2Client
from doubles.talker import ASKED, MESSAGE, ROUTE, compressed, path_of, status_of
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.grpc_server import GrpcServer
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.call import WINDOW
from pointsman_servicekit.grpc_wire.frames import Setting
from pointsman_servicekit.grpc_wire.messages import with_prefix

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
    data, _ = await client.answer(client.call(ROUTE, compressed(compress(ASKED)), [("grpc-encoding", name)]))
    assert path_of(data) == "auto"


@pytest.mark.parametrize(
    ("said", "encoding", "status", "told"),
    [
        (compressed(b"x"), "br", 12, "a message is compressed with 'br'; one of identity, gzip, deflate is read"),
        (compressed(b"xyz"), "gzip", 13, "a message cannot be decompressed"),
        (compressed(gzip.compress(b"x" * 100, mtime=0)[:20]), "gzip", 13, "a compressed message is cut off"),
        (
            compressed(gzip.compress(bytes(2_000_000), mtime=0)),
            "gzip",
            8,
            "a message has 1000001 bytes or more; at most 1000000",
        ),
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


@pytest.mark.parametrize("more", [("content-type", "text/plain"), (":protocol", "websocket"), (":method", "POST")])
async def test_what_is_no_call_is_answered_as_http(client: Http2Client, more: tuple[str, str]) -> None:
    _, told = await client.answer(client.call(ROUTE, None, [more]))
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
