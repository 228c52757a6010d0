"""A stream that is interrupted anywhere ends in an error in every API, and its receipt reports that."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from tests.gateway.doubles.api_clients import ApiClient, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.raw_engine import (
    HEAD,
    LAST,
    OPEN_HEAD,
    End,
    RawEngine,
    Step,
    event,
    in_chunks,
    running_raw_engine,
)
from tests.gateway.doubles.waiting import until

ROLE, FIRST, SECOND, FINISH, USAGE, DONE = EVENTS = (
    event(chunk("", role="assistant")),
    event(chunk("Zug")),
    event(chunk("führer 🚂")),
    event(chunk("", finish="stop")),
    event(usage()),
    b"data: [DONE]\n\n",
)
TEXT = "Zugführer 🚂"
WHOLE = HEAD + in_chunks(EVENTS) + LAST

TINY = "tiny"
"""The name of a model without a fallback path."""


@pytest.fixture
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_second_chance(neighbours: Neighbours) -> None:
    """Configures a gateway without retries and circuit breaker, so that each failure is reported unchanged."""
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}


def ended(gateway: Gateway, outcome: str) -> float:
    return gateway.metric("pointsman_requests_total", outcome=outcome, path=TINY)


async def test_a_complete_stream_is_an_answer_however_it_is_split(
    api: ApiClient, engine: RawEngine, gateway: Gateway
) -> None:
    for size in (1, 7, len(WHOLE)):
        engine.says(*(WHOLE[at : at + size] for at in range(0, len(WHOLE), size)))
        got = await api.ask(IN_CHAT, TINY)
        assert (got.text, got.finish_reason, got.prompt_tokens, got.completion_tokens) == (TEXT, "stop", 20, 2)
    engine.says(OPEN_HEAD + b"".join(EVENTS), End.CLOSED)
    assert (await api.ask(IN_CHAT, TINY)).text == TEXT
    assert ended(gateway, "ok") == 4


MIDDLE = len(in_chunks([SECOND])) // 2

CUTS: dict[str, bytes] = {
    "before the head": b"",
    "in the status line": HEAD[:12],
    "in the head": HEAD[:40],
    "after the head": HEAD,
    "in a chunk's size": HEAD + b"4",
    "before the first event": HEAD + in_chunks([b": ping\n\n"]),
    "after the role": HEAD + in_chunks([ROLE]),
    "in the first event": HEAD + in_chunks([ROLE]) + in_chunks([FIRST])[:20],
    "between events": HEAD + in_chunks([ROLE, FIRST]),
    "in a later event": HEAD + in_chunks([ROLE, FIRST]) + in_chunks([SECOND])[:MIDDLE],
    "in a character": HEAD + in_chunks([ROLE, FIRST]) + in_chunks([SECOND])[: in_chunks([SECOND]).index(b"\xf0") + 2],
    "after the finish": HEAD + in_chunks([ROLE, FIRST, SECOND, FINISH]),
    "after the usage": HEAD + in_chunks([ROLE, FIRST, SECOND, FINISH, USAGE]),
    "in [DONE]": HEAD + in_chunks([ROLE, FIRST, SECOND, FINISH, USAGE]) + b"e\r\ndata: [DON",
    "by HTTP's own end, without [DONE]": HEAD + in_chunks([ROLE, FIRST, SECOND, FINISH, USAGE]) + LAST,
    "where the connection is the end": OPEN_HEAD + b"".join([ROLE, FIRST, SECOND, FINISH, USAGE]),
}


@pytest.mark.parametrize("end", End)
async def test_a_stream_cut_anywhere_is_an_error(api: ApiClient, engine: RawEngine, gateway: Gateway, end: End) -> None:
    for where, written in CUTS.items():
        engine.says(written, end)
        with pytest.raises(PointsmanError, match="engine 'local' failed") as raised:
            await api.ask(IN_CHAT, TINY)
        assert raised.value.code == "engine_unavailable", where
    await until(lambda: ended(gateway, "engine_unavailable") == len(CUTS))
    assert ended(gateway, "ok") == 0


@pytest.mark.parametrize("name", ["http-stream", "grpc"])
async def test_a_stream_cut_after_any_byte_before_done_is_an_error(
    engine: RawEngine, gateway: Gateway, name: str
) -> None:
    whole = HEAD + in_chunks([FIRST, DONE]) + LAST
    done = whole.index(b"[DONE]\n") + len(b"[DONE]\n")
    async with open_api_client(name, gateway.url, gateway.grpc_address) as api:
        for cut in range(len(whole)):
            engine.says(whole[:cut], End.CLOSED)
            if cut >= done:
                assert (await api.ask(IN_CHAT, TINY)).text == "Zug", cut
                continue
            with pytest.raises(PointsmanError) as raised:
                await api.ask(IN_CHAT, TINY)
            assert raised.value.code == "engine_unavailable", cut
    await until(lambda: ended(gateway, "engine_unavailable") == done)
    assert ended(gateway, "ok") == len(whole) - done


BROKEN: dict[str, bytes] = {
    "no JSON": b"data: {\n\n",
    "no object": b"data: 5\n\n",
    "no text": b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}}]}\n\n',
    "choices that are none": b'data: {"choices": 7}\n\n',
    "usage that is none": b'data: {"choices": [], "usage": {"total": 1}}\n\n',
    "an error": event({"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}),
    "an error in a word": event({"error": "out of memory"}),
}


@pytest.mark.parametrize("before", [(ROLE,), (ROLE, FIRST)])
async def test_an_invalid_event_ends_the_stream_with_an_error(
    api: ApiClient, engine: RawEngine, gateway: Gateway, before: tuple[bytes, ...]
) -> None:
    for what, broken in BROKEN.items():
        engine.says(HEAD, in_chunks([*before, broken, FINISH, USAGE, DONE]), LAST)
        with pytest.raises(PointsmanError, match="engine 'local' failed") as raised:
            await api.ask(IN_CHAT, TINY)
        assert raised.value.code == "engine_unavailable", what
    await until(lambda: ended(gateway, "engine_unavailable") == len(BROKEN))
    assert ended(gateway, "ok") == 0


@pytest.fixture
def impatient_with_engines(neighbours: Neighbours) -> None:
    neighbours.config.models["engines"]["local"]["timeouts"] = {"stream_idle_seconds": 0.3, "first_token_seconds": 0.3}


SILENT: list[tuple[list[Step], str]] = [
    ([], "first_token_timeout"),
    ([HEAD, in_chunks([ROLE])], "first_token_timeout"),
    ([HEAD, in_chunks([ROLE, FIRST])], "stream_idle_timeout"),
    ([HEAD, in_chunks([ROLE, FIRST, FINISH, USAGE])], "stream_idle_timeout"),
]


@pytest.mark.parametrize(("message", "code"), SILENT)
async def test_an_engine_that_stops_sending_is_an_error(
    impatient_with_engines: None, api: ApiClient, engine: RawEngine, gateway: Gateway, message: list[Step], code: str
) -> None:
    engine.says(*message, asyncio.Event())
    with pytest.raises(PointsmanError, match="engine 'local' failed") as raised:
        await api.ask(IN_CHAT, TINY)
    assert raised.value.code == code
    await until(lambda: engine.running == 0 and engine.hung_up == 1)
    await until(lambda: ended(gateway, code) == 1)


@pytest.fixture
def short_of_time(neighbours: Neighbours) -> None:
    neighbours.settings["request_timeout"] = 0.4


@pytest.mark.parametrize("message", [[], [HEAD], [HEAD, in_chunks([ROLE, FIRST])]])
async def test_a_request_out_of_time_is_an_error_and_stops_the_engine(
    short_of_time: None, api: ApiClient, engine: RawEngine, gateway: Gateway, message: list[Step]
) -> None:
    engine.says(*message, asyncio.Event())
    with pytest.raises(PointsmanError, match="time ran out") as raised:
        await api.ask(IN_CHAT, TINY)
    assert raised.value.code == "deadline_exceeded"
    await until(lambda: engine.hung_up == 1)
    await until(lambda: ended(gateway, "deadline_exceeded") == 1)


async def test_a_cut_before_the_first_token_leads_to_the_fallback(
    api: ApiClient, engine: RawEngine, gateway: Gateway
) -> None:
    engine.says(HEAD, in_chunks([ROLE]), End.RESET)
    with pytest.raises(Unavailable):
        await api.ask(IN_CHAT)
    assert engine.asked >= 2  # the path of small talk, and if it fails the default path
    assert gateway.metric("pointsman_fallbacks_total", source="small_talk", target="safe_start") == 1


async def test_a_deadline_before_the_answer_has_its_own_error_code(
    short_of_time: None, api: ApiClient, engine: RawEngine
) -> None:
    engine.says(asyncio.Event())
    with pytest.raises(DeadlineExceeded):
        await api.ask(IN_CHAT, TINY)
