"""The client of OpenAI-compatible engines, with a scripted engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pointsman_gateway.config.providers import DEFAULT_API
from pointsman_gateway.domain import Chunk, Chunks, Message, Sampling, Usage
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_client import (
    EngineFailed,
    EngineRequest,
    NotServed,
    TransientFailure,
    counts_against_engine,
)
from pointsman_gateway.engines.http1 import MAX_STEP_BYTES
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.logs import request_id

from tests.gateway.doubles.clients import sent_by
from tests.gateway.doubles.engine import BREAK, DONE, TOO_LONG, ScriptedEngine, Step, answer, beginning, chunk, usage
from tests.gateway.doubles.raw_engine import HEAD, LAST, event, in_chunks, running_raw_engine
from tests.gateway.doubles.waiting import until

PLAIN = Sampling()

Stream = Callable[..., AsyncIterator[Chunks]]


@pytest.fixture
async def stream(engine: ScriptedEngine) -> AsyncIterator[Stream]:
    """Returns a function that calls the engine, with `seconds` left until the deadline."""
    pool = Pool()
    client = HttpEngineClient(pool)

    def call(*, seconds: float = 10, url: str = "", sampling: Sampling = PLAIN, **more: Any) -> AsyncIterator[Chunks]:
        deadline = asyncio.get_running_loop().time() + seconds
        messages = more.pop("messages", (Message("user", "hi"),))
        request = EngineRequest("a", url or engine.url, "tiny", messages, sampling, deadline, **more)
        return sent_by(partial(client.send, request))

    yield call
    pool.close()


async def collect(answer: AsyncIterator[Chunks], into: list[Chunk] | None = None) -> list[Chunk]:
    got = [] if into is None else into
    async for chunks in answer:
        got.extend(chunks)  # chunks before an error count
    return got


async def test_an_answer_consists_of_chunks_finish_reason_and_usage(engine: ScriptedEngine, stream: Stream) -> None:
    engine.says(*answer("Hel", "lo", prompt_tokens=30, cached_tokens=16))
    assert await collect(stream()) == [
        Chunk(content="Hel"), Chunk(content="lo"), Chunk(finish_reason="stop"), Chunk(usage=Usage(30, 2, 16)),
    ]  # fmt: skip


async def test_usage_without_details_has_no_cached_tokens(engine: ScriptedEngine, stream: Stream) -> None:
    counted = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None}}
    engine.says(*beginning("x"), counted, DONE)
    assert (await collect(stream()))[-1].usage == Usage(3, 1, 0)


async def test_tool_calls_reasoning_and_logprobs_are_kept(engine: ScriptedEngine, stream: Stream) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "refund", "arguments": "{"}}
    logprobs = {"content": [{"token": "a", "logprob": -0.1}]}
    engine.says(
        chunk(tool_calls=[call]), chunk("a", reasoning="hm", logprobs=logprobs), chunk("b", index=1), usage(), DONE
    )
    called, reasoned, second, _ = await collect(stream(sampling=Sampling(extra={"n": 2})))
    assert called.extra == {"delta": {"tool_calls": [call]}}
    assert reasoned.extra == {"delta": {"reasoning": "hm"}, "logprobs": logprobs}
    assert (second.index, second.content) == (1, "b")


async def test_the_engine_gets_exactly_the_given_parameters(engine: ScriptedEngine, stream: Stream) -> None:
    sampling = Sampling(5, 0.0, 0.5, 0, ("END",), extra={"tools": [1], "model": "not this", "stream": False})
    token = request_id.set("abc-123")
    await collect(
        stream(
            sampling=sampling,
            api=replace(DEFAULT_API, auth_header="authorization: Bearer sk-1\r\n"),
            messages=[Message("tool", "4", {"tool_call_id": "c1"})],
        )
    )
    request_id.reset(token)
    assert engine.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "tool", "content": "4", "tool_call_id": "c1"}],
            "max_tokens": 5,
            "temperature": 0.0,
            "top_p": 0.5,
            "seed": 0,
            "stop": ["END"],
            "tools": [1],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    sent = engine.headers[0]
    assert (sent["x-request-id"], sent["authorization"]) == ("abc-123", "Bearer sk-1")
    assert sent["accept-encoding"] == "identity"


async def test_parameters_that_are_not_set_are_not_sent(engine: ScriptedEngine, stream: Stream) -> None:
    await collect(stream())
    assert set(engine.bodies[0]) == {"model", "messages", "stream", "stream_options"}
    assert "authorization" not in engine.headers[0]


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ([], "the stream ended without \\[DONE\\]"),
        ([BREAK], "engine 'a' failed: "),
        ([{"error": {"message": "out of memory", "type": "InternalServerError"}}, DONE], "out of memory"),
        ([{"error": "out of memory"}, DONE], "out of memory"),
        ([b"data: {not json\n\n", DONE], "an event of its stream cannot be read: b'{not json'"),
        ([b"data: 5\n\n", DONE], "an event of its stream cannot be read: b'5'"),
        ([b'data: {"choices": [], "usage": {"total": 1}}\n\n', DONE], "an event of its stream cannot be read"),
        ([b"data: " + b"x" * (5 << 20)], "a line of the stream is too long"),
    ],
)
async def test_a_stream_without_done_is_an_error(
    engine: ScriptedEngine, stream: Stream, ending: list[Step], message: str
) -> None:
    engine.says(*beginning("Hel"), *ending)
    got: list[Chunk] = []
    with pytest.raises(Unavailable, match=message) as raised:
        await collect(stream(), got)
    assert got == [Chunk(content="Hel")]
    assert (raised.value.code, raised.value.retry_after) == ("engine_unavailable", 1.0)


async def test_events_may_be_split_anywhere_and_contain_comments(engine: ScriptedEngine, stream: Stream) -> None:
    wait = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, wait.set)
    head, tail = b'data: {"choices": [{"index": 0, "delta": {"content": "H\xc3', b'\xa9"}}]}\r\n\r\n'
    engine.says(b": ping\n\nevent: message\n", head, wait, tail, b"data:[DONE]\n\n")
    assert await collect(stream()) == [Chunk(content="Hé")]


@pytest.mark.parametrize("end", [DONE, b": no more\n\n"], ids=["complete", "cut off"])
async def test_many_events_that_arrive_together_are_read_in_steps(stream: Stream, end: bytes) -> None:
    words = [f"{number} " for number in range(5_000)]
    reads: list[Chunks] = []
    async with running_raw_engine() as engine:
        engine.says(HEAD, in_chunks([b"".join(event(chunk(word)) for word in words) + end]), LAST)
        with nullcontext() if end == DONE else pytest.raises(Unavailable, match=r"without \[DONE\]"):
            async for chunks in stream(url=engine.url):
                reads.append(chunks)
    assert [chunk.content for chunks in reads for chunk in chunks] == words
    assert max(sum(len(chunk.raw) for chunk in chunks) for chunks in reads) <= MAX_STEP_BYTES


@pytest.mark.parametrize(
    ("code", "family"), [(400, InvalidArgument), (404, NotServed), (500, TransientFailure), ("bad", TransientFailure)]
)
async def test_an_error_at_the_start_of_a_stream_counts_as_its_status(
    engine: ScriptedEngine, stream: Stream, code: Any, family: type[PointsmanError]
) -> None:
    error = {"message": "Invalid grammar", "type": "BadRequestError", "param": "tools", "code": code}
    engine.says({"error": error}, DONE)

    with pytest.raises(family, match="Invalid grammar") as raised:
        await collect(stream())

    assert counts_against_engine(raised.value) == (family is TransientFailure)
    assert raised.value.param == ("tools" if code == 400 else None)


async def test_an_error_after_the_first_token_is_the_engines(engine: ScriptedEngine, stream: Stream) -> None:
    engine.says(chunk("a"), {"error": {"message": "list index out of range", "code": 400}}, DONE)

    with pytest.raises(TransientFailure, match="list index"):
        await collect(stream())


KEYS = "pm_ABCDEFGH_" + "s" * 32, "sk-" + "a" * 40


@pytest.mark.parametrize("before", [(), ("Hel",)])
@pytest.mark.parametrize("code", [400, 500])
async def test_an_error_in_a_stream_is_masked_and_cut(
    engine: ScriptedEngine, stream: Stream, before: tuple[str, ...], code: int
) -> None:
    message = f"Incorrect API key provided: {' and '.join(KEYS)} {'x' * 100_000}"
    engine.says(*beginning(*before), {"error": {"message": message, "code": code, "param": ["x"]}}, DONE)

    with pytest.raises(PointsmanError, match=r"Incorrect API key provided: \[secret\] and \[secret\] x") as raised:
        await collect(stream())

    assert len(raised.value.message) < 2100
    assert raised.value.message.endswith("x…")


async def test_an_error_in_an_anthropic_stream_is_masked_and_cut(engine: ScriptedEngine, stream: Stream) -> None:
    engine.says({"type": "error", "error": {"type": "api_error", "message": f"{' '.join(KEYS)} {'x' * 100_000}"}})

    with pytest.raises(TransientFailure, match=r"failed: \[secret\] \[secret\] x") as raised:
        await collect(stream(api=replace(DEFAULT_API, dialect="anthropic")))

    assert len(raised.value.message) < 2100


@pytest.mark.parametrize("status", [400, 500])
async def test_the_message_of_a_response_is_cut(engine: ScriptedEngine, stream: Stream, status: int) -> None:
    engine.refuses(status, {"error": {"message": "x" * 100_000, "param": "x" * 10_000}})
    with pytest.raises(PointsmanError) as raised:
        await collect(stream())
    assert len(raised.value.message) < 2100
    assert len(raised.value.param or "") < 300


VALIDATION = {"error": {"message": "top_k must be 1 or more", "type": "BadRequestError", "param": "top_k", "code": 400}}


@pytest.mark.parametrize(
    ("status", "body", "family", "code", "param", "message"),
    [
        (400, TOO_LONG, InvalidArgument, "context_length_exceeded", "messages", "This model's maximum context length"),
        (400, VALIDATION, InvalidArgument, "engine_refused", "top_k", "top_k must be 1 or more"),
        (422, {"detail": "no"}, InvalidArgument, "engine_refused", None, '{"detail": "no"}'),
        (400, [1], InvalidArgument, "engine_refused", None, "[1]"),
        (
            400,
            {"error": {"message": "tool_choice='auto' requires --tool-call-parser to be set"}},
            InvalidArgument,
            "engine_refused",
            None,
            "tool_choice='auto' requires --tool-call-parser to be set; for an engine that a lora-server starts, set "
            "POINTSMAN_LORA_TOOL_CALL_PARSER",
        ),
        (
            404,
            {"error": {"message": "no such model"}},
            NotServed,
            "engine_error",
            None,
            "engine 'a' answered 404: no",
        ),
        (500, "boom", EngineFailed, "engine_error", None, "engine 'a' answered 500: \"boom\""),
        (503, {}, TransientFailure, "engine_error", None, "engine 'a' answered 503: {}"),
        (302, {}, EngineFailed, "engine_error", None, "engine 'a' answered 302, a redirect to ''"),
    ],
)
async def test_an_engines_status_maps_to_a_caller_or_engine_error(
    engine: ScriptedEngine,
    stream: Stream,
    status: int,
    body: Any,
    family: type[PointsmanError],
    code: str,
    param: str | None,
    message: str,
) -> None:
    engine.refuses(status, body)
    with pytest.raises(PointsmanError) as raised:
        await collect(stream())
    assert (type(raised.value), raised.value.code, raised.value.param) == (family, code, param)
    assert raised.value.message.startswith(message)


async def test_an_unreachable_engine_is_unavailable(stream: Stream) -> None:
    with pytest.raises(Unavailable, match="engine 'a' failed: ") as raised:
        await collect(stream(url="http://127.0.0.1:1"))
    assert raised.value.code == "engine_unavailable"


@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_the_deadline_ends_a_call_and_the_engines_work(
    engine: ScriptedEngine, stream: Stream, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    with pytest.raises(DeadlineExceeded, match="time ran out"):
        await collect(stream(seconds=0.1))
    await until(lambda: engine.running == 0)


async def test_closing_the_iterator_stops_the_engine(engine: ScriptedEngine, stream: Stream) -> None:
    engine.says(*beginning("Hel", "lo"), asyncio.Event())
    async with aclosing(stream()) as chunks:  # type: ignore[type-var]  # a generator's
        assert (await anext(chunks))[0].content == "Hel"
        assert engine.running == 1
    await until(lambda: engine.running == 0, within=1)
