"""How a request message is received: after authorization, and within limits of time, number of fields, and memory."""

import sys
from types import FrameType
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.errors import Unauthenticated, Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_requests import has_more_fields
from pointsman_servicekit.grpc_server import ServerLimits, serving

from tests.gateway.doubles.http2_client import DATA, SETTINGS, frame, speaking
from tests.grpc_stubs import raw_call

ROUTE = "/pointsman.v1.Gateway/Route"


class ClosedGate:
    """An authorization that rejects every call, and records its arguments."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def admit(self, method: str, context: Any) -> str:
        self.asked.append(method)
        raise Unauthenticated("no key", code="unknown_key")


def register(servicer: Any) -> Any:
    return lambda server: gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)


async def test_the_gate_is_asked_before_the_message_is_there(servicer: Any) -> None:
    gate = ClosedGate()
    async with (
        serving("127.0.0.1:0", [], register(servicer), grace=0, gate=gate) as server,
        speaking(server.address) as client,
    ):
        client.say(frame(SETTINGS, 1, 0, b""))
        _, trailers = await client.answer(client.call(ROUTE, None))
        assert trailers["grpc-status"] == str(grpc.StatusCode.UNAUTHENTICATED.value[0])
    assert gate.asked == [ROUTE]
    assert not servicer.peers


def test_empty_messages_of_one_tenant_may_end_in_any_order() -> None:
    budget = BufferedBytesBudget(1000)
    with budget.reserved("ours", 0):
        with budget.reserved("ours", 0), budget.reserved("ours", 100):
            assert budget.used == 100
        with pytest.raises(Unavailable), budget.reserved("ours", 501):
            pass
    with budget.reserved("ours", 500):
        assert budget.used == 500


async def test_health_needs_no_gate(servicer: Any) -> None:
    gate = ClosedGate()
    async with (
        serving("127.0.0.1:0", [], register(servicer), grace=0, gate=gate) as server,
        open_channel(server.address) as channel,
    ):
        await raw_call(channel, "/grpc.health.v1.Health/Check")(b"")
    assert gate.asked == []


async def test_a_message_that_does_not_become_complete_ends_the_call(servicer: Any) -> None:
    limits = ServerLimits(message_timeout=0.3)
    async with (
        serving("127.0.0.1:0", [], register(servicer), grace=0, limits=limits) as server,
        speaking(server.address) as client,
    ):
        client.say(frame(SETTINGS, 1, 0, b""))
        stream = client.call(ROUTE, None)
        client.say(frame(DATA, 0, stream, b"\x00\x00\x00\x00\x09half"))
        _, trailers = await client.answer(stream)
        assert trailers["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])


async def test_a_slow_message_is_refused_if_the_budget_has_no_room_for_the_largest(servicer: Any) -> None:
    budget = BufferedBytesBudget(1000)
    async with (
        serving("127.0.0.1:0", [], register(servicer), grace=0, budget=budget) as server,
        speaking(server.address) as client,
        open_channel(server.address) as channel,
    ):
        client.say(frame(SETTINGS, 1, 0, b""))
        _, trailers = await client.answer(client.call(ROUTE, None))
        assert trailers["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
        assert (await gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest(model="auto"))).decision.path
    assert budget.used == 0


@pytest.mark.parametrize(("raw", "code"), [(b"\xff\xff", "INVALID_ARGUMENT"), (b"\x12\x00" * 300, "INVALID_ARGUMENT")])
async def test_what_cannot_be_parsed_or_has_too_many_fields_is_refused(servicer: Any, raw: bytes, code: str) -> None:
    limits = ServerLimits(max_message_fields=100)
    async with (
        serving("127.0.0.1:0", [], register(servicer), grace=0, limits=limits) as server,
        open_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw_call(channel, ROUTE)(raw)
        assert refused.value.code().name == code


def test_a_tenant_may_hold_its_share_of_the_budget_and_no_more() -> None:
    budget = BufferedBytesBudget(100, max_share=0.5)
    budget.reserve("acme", 50)
    with pytest.raises(Unavailable):
        budget.reserve("acme", 1)
    budget.reserve("other", 50)
    with pytest.raises(Unavailable):
        budget.reserve("third", 1)
    budget.release("acme", 50)
    with budget.reserved("third", 20):
        assert budget.used == 70
    budget.release("other", 50)
    assert budget.used == 0


def count_of_fields(message: Any) -> int:
    count = 0
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for one in values:
            count += 1 + (count_of_fields(one) if field.message_type else 0)
    return count


MESSAGES = st.lists(st.builds(pb.Message, role=st.text(max_size=3), content=st.text(max_size=9)), max_size=30)


@given(MESSAGES, st.lists(st.text(max_size=4), max_size=9))
def test_the_fields_of_a_message_and_of_those_in_it_are_counted(messages: list[pb.Message], stop: list[str]) -> None:
    request = pb.GenerateRequest(model="m", messages=messages, sampling=pb.Sampling(stop=stop))
    raw, count = request.SerializeToString(), count_of_fields(request)
    for limit in range(count + 3):
        if len(raw) > 2 * limit:
            assert has_more_fields(raw, pb.GenerateRequest.DESCRIPTOR, limit) is (count > limit)


def numbers_read(raw: bytes, limit: int) -> list[int]:
    """Returns the positions in a message at which numbers were read to count its fields."""
    found: list[int] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_varint" and frame.f_locals["at"] < frame.f_locals["end"]:
            found.append(frame.f_locals["at"])

    sys.setprofile(profile)
    try:
        has_more_fields(raw, pb.GenerateRequest.DESCRIPTOR, limit)
    finally:
        sys.setprofile(None)
    return found


CUT_MESSAGES = st.builds(
    lambda messages, length: pb.GenerateRequest(messages=messages).SerializeToString()[:length],
    MESSAGES,
    st.integers(0, 300),
)


@given(st.binary(max_size=300) | CUT_MESSAGES, st.integers(0, 150))
def test_no_byte_of_a_message_is_read_twice(raw: bytes, limit: int) -> None:
    read = numbers_read(raw, limit)

    assert len(set(read)) == len(read) <= 3 * (limit + 1)
    assert bool(read) is (len(raw) > 2 * limit > 0)
