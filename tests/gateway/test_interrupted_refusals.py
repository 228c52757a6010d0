"""An engine's error is reported, even if the response's body is interrupted."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.raw_engine import End, RawEngine, Step, running_raw_engine
from tests.gateway.doubles.waiting import until

BODY = b'{"error": {"message": "top_k must be 1 or more", "param": "top_k"}}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"

ENDS: dict[str, list[Step]] = {
    "with its length": [b"HTTP/1.1 %d No\r\n" + LENGTH + b"\r\n" + BODY],
    "with the connection": [b"HTTP/1.1 %d No\r\nconnection: close\r\n\r\n" + BODY, End.CLOSED],
    "with the connection, in HTTP/1.0": [b"HTTP/1.0 %d No\r\n\r\n" + BODY, End.CLOSED],
    "with the connection, in pieces": [b"HTTP/1.1 %d No\r\n\r\n", BODY[:20], BODY[20:], End.CLOSED],
    "with a reset": [b"HTTP/1.1 %d No\r\n\r\n" + BODY, End.RESET],
}

CUT: dict[str, list[Step]] = {
    "before its body": [b"HTTP/1.1 %d No\r\n" + LENGTH + b"\r\n", End.CLOSED],
    "within its body": [b"HTTP/1.1 %d No\r\n" + LENGTH + b"\r\n" + BODY[:30], End.CLOSED],
    "within its body by a reset": [b"HTTP/1.1 %d No\r\n" + LENGTH + b"\r\n" + BODY[:30], End.RESET],
    "within a chunk": [b"HTTP/1.1 %d No\r\n" + CHUNKED + b"\r\n40\r\n" + BODY[:30], End.CLOSED],
    "between two chunks": [b"HTTP/1.1 %d No\r\n" + CHUNKED + b"\r\n5\r\nabcde\r\n", End.CLOSED],
    "by something that is not HTTP": [b"HTTP/1.1 %d No\r\n" + CHUNKED + b"\r\n5\r\nabcde\r\nno size\r\n"],
}


@pytest.fixture
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_second_chance(neighbours: Neighbours) -> None:
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    neighbours.config.models["engines"]["local"]["timeouts"] = {"first_token_seconds": 3}


def with_status(steps: list[Step], status: int) -> list[Step]:
    return [step.replace(b"%d", b"%d" % status, 1) if isinstance(step, bytes) else step for step in steps]


def ended(gateway: Gateway, outcome: str) -> float:
    return gateway.metric("pointsman_requests_total", outcome=outcome, path="tiny")


async def test_the_clients_mistake_is_reported_with_the_engines_reason(
    api: ApiClient, engine: RawEngine, gateway: Gateway
) -> None:
    for end, steps in ENDS.items():
        engine.says(*with_status(steps, 400))
        with pytest.raises(InvalidArgument, match="top_k must be 1 or more") as raised:
            await asyncio.wait_for(api.ask(IN_CHAT, "tiny"), 3)
        assert raised.value.code == "engine_refused", end
    await until(lambda: ended(gateway, "engine_refused") == len(ENDS))
    assert gateway.metric("pointsman_in_flight") == gateway.metric("pointsman_engine_in_flight") == 0


@pytest.mark.parametrize(("status", "code"), [(400, "engine_refused"), (503, "engine_error")])
async def test_an_error_that_is_cut_off_is_still_one_of_its_status(
    api: ApiClient, engine: RawEngine, gateway: Gateway, status: int, code: str
) -> None:
    for cut, steps in CUT.items():
        engine.says(*with_status(steps, status))
        with pytest.raises(PointsmanError) as raised:
            await asyncio.wait_for(api.ask(IN_CHAT, "tiny"), 3)
        assert raised.value.code == code, cut
    await until(lambda: ended(gateway, code) == len(CUT))
    assert gateway.metric("pointsman_in_flight") == gateway.metric("pointsman_engine_in_flight") == 0


async def test_an_error_whose_body_stalls_is_reported_in_the_engines_time(
    api: ApiClient, engine: RawEngine, gateway: Gateway
) -> None:
    engine.says(b"HTTP/1.1 503 No\r\n" + LENGTH + b"\r\n" + BODY[:30], asyncio.Event())
    with pytest.raises(Unavailable) as raised:
        await asyncio.wait_for(api.ask(IN_CHAT, "tiny"), 8)
    assert raised.value.code == "engine_error"
    await until(lambda: engine.hung_up == 1)
    assert gateway.metric("pointsman_engine_in_flight") == 0
