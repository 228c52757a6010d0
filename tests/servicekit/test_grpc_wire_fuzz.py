"""Whatever is said to our own HTTP/2 for gRPC, and what is left of it."""

import asyncio
import gc
import weakref
from typing import Any

from doubles.talker import GENERATE, MESSAGE, ONCE, ROUTE, Talker
from hypothesis import given, settings
from hypothesis import strategies as st
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire import frames
from pointsman_servicekit.grpc_wire.connection import GrpcConnection
from pointsman_servicekit.grpc_wire.frames import Code, Setting, frame
from pointsman_servicekit.grpc_wire.server import GrpcWire

ALL = frames.END_HEADERS | frames.END_STREAM


class Outbox:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True


def any_frame() -> st.SearchStrategy[bytes]:
    streams = st.sampled_from([0, 1, 3, 5, 7, 2, 2**31 - 1])
    wild = st.builds(frame, st.integers(0, 12), st.integers(0, 255), streams, st.binary(max_size=40))
    called = st.builds(
        lambda stream, flags, name: frame(frames.HEADERS, flags, stream, literal_head(name)),
        streams, st.sampled_from([frames.END_HEADERS, ALL, 0]), st.sampled_from([ROUTE, GENERATE, ONCE, "/a/b"]),
    )  # fmt: skip
    said = st.builds(
        frame, st.just(frames.DATA), st.sampled_from([0, 1]), streams, st.sampled_from([MESSAGE, b"", b"x"])
    )
    window = st.builds(frames.window_update, streams, st.sampled_from([0, 1, 10, 100_000, 2**31 - 1]))
    started = st.builds(
        lambda value: frames.settings({Setting.INITIAL_WINDOW_SIZE: value}), st.sampled_from([0, 9, 2**31])
    )
    ended = st.builds(frames.reset, streams, st.just(Code.CANCEL))
    return st.one_of(called, said, window, started, ended, wild)


def literal_head(path: str) -> bytes:
    said = [(":method", "POST"), (":path", path), ("content-type", "application/grpc")]
    return b"".join([b"\x00" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in said])


def test_a_connection_that_is_gone_leaves_nothing_to_the_garbage_collector() -> None:
    called = frame(frames.HEADERS, frames.END_HEADERS, 1, literal_head(ONCE)) + frame(frames.DATA, 1, 1, MESSAGE)
    broken = frame(frames.PUSH_PROMISE, 0, 1, bytes(4))
    for said in (called, called + broken):
        gc.collect()
        gc.disable()
        try:
            gone = asyncio.run(_heard_and_gone(said))
            assert gone() is None
        finally:
            gc.enable()


async def _heard_and_gone(said: bytes) -> "weakref.ref[GrpcConnection]":
    wire = GrpcWire((), ServerLimits())
    gateway_pb2_grpc.add_GatewayServicer_to_server(Talker(), wire)  # type: ignore[arg-type]
    connection = GrpcConnection(wire.find, ServerLimits(), set())
    outbox: Any = Outbox()
    connection.connection_made(outbox)
    connection.data_received(frames.PREFACE + frames.settings({}) + said)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    return weakref.ref(connection)


@settings(max_examples=300, deadline=None)
@given(st.lists(any_frame(), max_size=30), st.integers(1, 200))
def test_whatever_is_said_it_goes_on_or_ends_and_nothing_is_left(said: list[bytes], size: int) -> None:
    asyncio.run(_hear(b"".join(said), size))


async def _hear(said: bytes, size: int) -> None:
    talker = Talker()
    wire = GrpcWire((), ServerLimits(streams=3))
    gateway_pb2_grpc.add_GatewayServicer_to_server(talker, wire)  # type: ignore[arg-type]
    them: set[GrpcConnection] = set()
    connection = GrpcConnection(wire.find, ServerLimits(streams=3), them)
    outbox: Any = Outbox()
    connection.connection_made(outbox)
    everything = frames.PREFACE + frames.settings({}) + said
    for at in range(0, len(everything), size):
        if outbox.closed:
            break
        connection.data_received(everything[at : at + size])
        await asyncio.sleep(0)
    _well_formed(outbox.written)
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (connection.streams.calls, connection.streams.at_work, connection.streams.held, talker.working, them) == (
        {},
        0,
        0,
        0,
        set(),
    )


def _well_formed(written: bytes) -> None:
    """Whole frames, none too long, and nothing on a stream behind its end."""
    at, ended = 0, set()
    while at < len(written):
        high, low, kind, flags, stream = frames.read_head(written, at)
        assert (high << 8 | low) <= frames.LARGEST_FRAME
        if kind in (frames.DATA, frames.HEADERS):
            assert stream not in ended
            if flags & frames.END_STREAM:
                ended.add(stream)
        at += frames.HEAD_BYTES + (high << 8 | low)
    assert at == len(written)
