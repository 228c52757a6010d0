"""Tokens between services: the server's file of peers, the client's file, and the gate that checks each call."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import PermissionDenied, Unauthenticated
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.service_tokens import (
    FollowedFile,
    Peer,
    Role,
    TokenFileError,
    TokenGate,
    authenticated_peer,
    author_of,
    is_loopback,
    method_roles,
    open_token,
    open_token_gate,
    parse_peers,
    parse_token,
)

from tests.gateway.doubles.http2_client import SETTINGS, frame, speaking
from tests.grpc_stubs import raw_call

SERVICE = "pointsman.v1.Gateway"
ROUTE = f"/{SERVICE}/Route"
ROLES = method_roles(SERVICE, read=["Route"], write=["Feedback"], admin=["GenerateStream"])
READER, WRITER, ADMIN = "r" * 32, "w" * 32, "a" * 40
PEERS = f"""
# those that read
top read {READER}
gateway  write\t{WRITER}
cli ADMIN {ADMIN}
"""


class Call:
    """A call, with the attributes that the authorization reads."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(file: Path, text: str) -> None:
    file.write_text(text)


def showing(token: str, scheme: str = "Bearer") -> Any:
    return Call(("user-agent", "test"), ("authorization", f"{scheme} {token}"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(PEERS)
    return path


@pytest.fixture
def gate(file: Path) -> TokenGate:
    return TokenGate(FollowedFile(file, parse_peers), ROLES)


async def test_a_peer_is_known_by_its_token(gate: TokenGate) -> None:
    assert await gate.admit(ROUTE, showing(READER)) == "top"
    assert await gate.admit(ROUTE, showing(WRITER, "bearer")) == "gateway"
    assert authenticated_peer.get() == Peer("gateway", Role.WRITE)


@pytest.mark.parametrize(
    "call",
    [
        Call(),
        showing("x" * 32),
        showing(READER[:-1]),
        showing(f"{READER}r"),
        showing(""),
        showing(READER, "Basic"),
        Call(("authorization", READER)),
        Call(("authorization", f"Bearer {READER}"), ("authorization", f"Bearer {ADMIN}")),
    ],
)
async def test_a_call_without_one_known_token_is_refused(gate: TokenGate, call: Any) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await gate.admit(ROUTE, call)
    assert READER not in refused.value.message


@pytest.mark.parametrize(
    ("token", "method", "admitted"),
    [
        (READER, "Route", True),
        (READER, "Feedback", False),
        (READER, "GenerateStream", False),
        (WRITER, "Feedback", True),
        (WRITER, "GenerateStream", False),
        (WRITER, "NotInTheTable", False),
        (ADMIN, "GenerateStream", True),
        (ADMIN, "NotInTheTable", True),
    ],
)
async def test_each_role_includes_those_before_it(gate: TokenGate, token: str, method: str, admitted: bool) -> None:
    if admitted:
        await gate.admit(f"/{SERVICE}/{method}", showing(token))
        return
    with pytest.raises(PermissionDenied) as refused:
        await gate.admit(f"/{SERVICE}/{method}", showing(token))
    needed = "write" if method == "Feedback" else "admin"
    assert refused.value.message.endswith(f"{method} needs the role {needed}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "contains no token"),
        ("# nothing\n", "contains no token"),
        (f"top {READER}", "line 1 is not NAME ROLE TOKEN"),
        (f"# a\ntop read {READER} more", "line 2 is not NAME ROLE TOKEN"),
        (f"top owner {READER}", "line 1: the role must be one of read, write, admin, not 'owner'"),
        ("top read short", "line 1: a token must have at least 32 characters"),
        (f"top read {'ä' * 40}", "line 1: a token must be one word of printable ASCII"),
        (f"top read {READER}\ntop write {WRITER}", "line 2: the name 'top' appears twice"),
        (f"top read {READER}\ncli admin {READER}", "line 2: the token is also that of 'top'"),
    ],
)
def test_a_bad_line_is_named_without_its_token(text: str, problem: str) -> None:
    with pytest.raises(TokenFileError) as refused:
        parse_peers(text)
    assert problem in str(refused.value)
    assert not any(token in str(refused.value) for token in (READER, WRITER, "short"))


def test_a_client_s_file_contains_its_token_alone(tmp_path: Path) -> None:
    assert parse_token(f"{READER}\n") == READER
    for text in ("", "short", f"{READER} {WRITER}"):
        with pytest.raises(TokenFileError):
            parse_token(text)
    with pytest.raises(TokenFileError, match="cannot be read"):
        open_token(tmp_path / "missing")
    assert open_token(None) is None


async def test_a_changed_file_is_used_within_a_second(file: Path) -> None:
    clock = Clock()
    gate = TokenGate(FollowedFile(file, parse_peers, clock), ROLES)
    write(file, f"top read {'n' * 32}\n")
    assert await gate.admit(ROUTE, showing(READER)) == "top"
    clock.now = 1.0
    assert await gate.admit(ROUTE, showing("n" * 32)) == "top"
    with pytest.raises(Unauthenticated):
        await gate.admit(ROUTE, showing(READER))


@pytest.mark.parametrize("spoil", [lambda file: write(file, "top read short"), lambda file: file.unlink()])
async def test_a_bad_edit_leaves_the_last_valid_version(
    file: Path, spoil: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    gate = TokenGate(FollowedFile(file, parse_peers, clock), ROLES)
    spoil(file)
    for clock.now in (1.0, 2.0, 3.0):
        assert await gate.admit(ROUTE, showing(READER)) == "top"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    write(file, f"new read {READER}")
    clock.now = 4.0
    assert await gate.admit(ROUTE, showing(READER)) == "new"


def test_a_missing_file_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="cannot be read"):
        open_token_gate(tmp_path / "missing", ROLES, "127.0.0.1:8082", "TOKENS")


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:8082", True),
        ("127.1.2.3:0", True),
        ("[::1]:8082", True),
        ("localhost:8082", True),
        ("unix:/run/pointsman.sock", True),
        ("0.0.0.0:8082", False),
        ("[::]:8082", False),
        ("10.0.0.5:8082", False),
        ("pointsman:8082", False),
    ],
)
def test_a_server_without_tokens_warns_unless_it_listens_on_loopback(
    listen: str, local: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_token_gate(None, ROLES, listen, "POINTSMAN_X_TOKENS") is None
    assert is_loopback(listen) is local
    assert ("POINTSMAN_X_TOKENS" in caplog.text) is not local


def test_the_author_is_the_peer_and_what_the_request_claims_comes_after_it() -> None:
    assert author_of("ann") == "ann"
    reset = authenticated_peer.set(Peer("cli", Role.ADMIN))
    assert [author_of(claimed) for claimed in ("", "cli", "ann")] == ["cli", "cli", "cli (ann)"]
    authenticated_peer.reset(reset)


async def test_a_call_without_a_token_is_refused_before_its_message_is_there(servicer: Any, gate: TokenGate) -> None:
    def register(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    async with (
        serving("127.0.0.1:0", [SERVICE], register, grace=0, gate=gate) as server,
        speaking(server.address) as client,
    ):
        client.say(frame(SETTINGS, 1, 0, b""))
        _, trailers = await client.answer(client.call(ROUTE, None))
        assert trailers["grpc-status"] == str(grpc.StatusCode.UNAUTHENTICATED.value[0])


async def test_a_channel_with_a_token_sends_it_with_each_kind_of_call(
    servicer: Any, gate: TokenGate, tmp_path: Path
) -> None:
    def register(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    own = tmp_path / "own"
    own.write_text(ADMIN)
    async with (
        serving("127.0.0.1:0", [SERVICE], register, grace=0, gate=gate) as server,
        open_channel(server.address, token=open_token(own)) as channel,
        open_channel(server.address) as bare,
    ):
        await channel.channel_ready()
        stub = gateway_pb2_grpc.GatewayStub(channel)
        answer = await stub.Route(pb.RouteRequest(model="auto"), metadata=(("x-request-id", "one"),), timeout=5)
        assert answer.decision.path == "auto"
        stream = stub.GenerateStream(pb.GenerateRequest())
        assert (await stream.read()).delta.content == "one"
        stream.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway_pb2_grpc.GatewayStub(bare).Route(pb.RouteRequest(model="auto"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await raw_call(bare, "/grpc.health.v1.Health/Check")(b"")
