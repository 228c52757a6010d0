"""Exact caching in a real Valkey: when answers are reused, for whom, and which answers are never stored."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.domain import Chunk, Message, Path, Sampling, Usage
from pointsman_gateway.metering.meter import NO_ATTEMPT
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.caching import GREEDY, PASSAGE, PATH, CacheHarness, Question, another, run_cache, steps_of
from tests.gateway.doubles.clients import chunks_of
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

EXACT = CacheConfig()
QUESTION = Question()


@pytest.fixture
async def harness(valkey: Valkey) -> AsyncIterator[CacheHarness]:
    async with run_cache(valkey.url) as harness:
        yield harness


async def test_the_same_question_gets_the_same_chunks_without_an_engine(harness: CacheHarness) -> None:
    first = await harness.ask(EXACT, QUESTION)
    again = await harness.ask(EXACT, QUESTION)
    assert (first.cached, again.cached) == ("", "exact")
    assert again.steps == first.steps
    assert again.steps[-1][0].usage == Usage(20, 2, 4)
    assert (again.model, harness.engine.times) == ("tiny", 1)
    assert harness.outcomes("lookups") == {"miss": 1, "exact": 1}


async def test_tool_calls_log_probabilities_and_several_choices_are_replayed_completely(harness: CacheHarness) -> None:
    call = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}
    harness.engine.says = [
        (Chunk(0, "a", None, {"logprobs": {"content": [{"token": "a", "logprob": -0.25}]}}), Chunk(1, "b")),
        (Chunk(1, extra={"delta": call}), Chunk(0, finish_reason="stop"), Chunk(1, finish_reason="tool_calls")),
        (Chunk(usage=Usage(9, 3)),),
    ]
    asked = another(QUESTION, sampling=Sampling(extra={"n": 2, "tools": [{"type": "function"}]}))
    first = await harness.ask(EXACT, asked)
    again = await harness.ask(EXACT, asked)
    assert again.cached == "exact"
    assert again.steps == first.steps


async def test_an_engines_own_bytes_are_not_replayed(harness: CacheHarness) -> None:
    harness.engine.says = [(Chunk(content="Yes", raw=b'{"id": "chatcmpl-of-another-caller"}'),), *steps_of()]
    await harness.ask(EXACT, QUESTION)
    again = await harness.ask(EXACT, QUESTION)
    assert [chunk.raw for chunks in again.steps for chunk in chunks] == [b""] * 3


OTHERS: dict[str, Any] = {
    "tenant": another(QUESTION, tenant="south"),
    "text": another(QUESTION, text="May my bike ride ?"),
    "path": another(QUESTION, path=replace(PATH, name="letter")),
    "prompt file": another(QUESTION, path=replace(PATH, fingerprint="f2")),
    "model": another(QUESTION, path=replace(PATH, model="large")),
    "collection": another(QUESTION, versions=(("handbook", 8),)),
    "passages": another(QUESTION, passages=(replace(PASSAGE, text="They pay."),)),
    "max_tokens": another(QUESTION, sampling=Sampling(max_tokens=5)),
    "top_p": another(QUESTION, sampling=Sampling(top_p=0.5)),
    "seed": another(QUESTION, sampling=Sampling(seed=1)),
    "stop": another(QUESTION, sampling=Sampling(stop=("x",))),
    "n": another(QUESTION, sampling=Sampling(extra={"n": 2})),
    "response_format": another(QUESTION, sampling=Sampling(extra={"response_format": {"type": "json_object"}})),
    "tools": another(QUESTION, sampling=Sampling(extra={"tools": [{"type": "function"}]})),
    "earlier turns": another(QUESTION, before=(Message("user", "Hi"), Message("assistant", "Hello"))),
    "role": another(QUESTION, text="x", before=(Message("assistant", QUESTION.text),)),
    "name": another(QUESTION, text="x", before=(Message("user", QUESTION.text, {"name": "ann"}),)),
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_difference_in_any_of_these_is_a_miss(harness: CacheHarness, what: str) -> None:
    harness.engine.model = QUESTION.path.model
    await harness.ask(EXACT, QUESTION)
    harness.engine.model = OTHERS[what].path.model
    gave = await harness.ask(EXACT, OTHERS[what])
    assert (gave.cached, harness.engine.times) == ("", 2)
    assert (await harness.ask(EXACT, OTHERS[what])).cached == "exact"


async def test_another_adapter_version_is_a_miss(harness: CacheHarness) -> None:
    path = Path("triage_adapter", "tiny", adapter="triage@prod", sampling=GREEDY)
    asked = another(QUESTION, path=path, versions=())
    for version in "triage@1111", "triage@2222", "triage@1111":
        harness.versions["triage@prod"] = harness.engine.model = version
        gave = await harness.ask(EXACT, asked)
    assert (gave.cached, gave.model, harness.engine.times) == ("exact", "triage@1111", 2)


async def test_an_answer_of_another_version_than_expected_is_not_stored(harness: CacheHarness) -> None:
    path = Path("triage_adapter", "tiny", adapter="triage@prod", sampling=GREEDY)
    asked = another(QUESTION, path=path, versions=())
    harness.versions["triage@prod"], harness.engine.model = "triage@1111", "triage@2222"  # its alias changes meanwhile
    await harness.ask(EXACT, asked)
    assert (await harness.ask(EXACT, asked)).cached == ""


async def test_a_path_without_a_cache_is_not_affected(harness: CacheHarness) -> None:
    caching = harness.caching(EXACT, replace(PATH, name="another"))
    for _ in range(2):
        opened = await caching.call(QUESTION.request(), QUESTION.decision(), QUESTION.prompt(), NO_ATTEMPT)
        assert [chunks async for chunks in chunks_of(opened.source)] == harness.engine.says
    assert (harness.engine.times, harness.outcomes("lookups")) == (2, {})


@pytest.mark.parametrize("temperature", [0.7, None])
async def test_an_answer_with_nonzero_temperature_is_stored_only_if_the_path_allows_it(
    harness: CacheHarness, temperature: float | None
) -> None:
    path = replace(PATH, sampling=Sampling(temperature=temperature))
    asked = another(QUESTION, path=path)
    assert [(await harness.ask(EXACT, asked)).cached for _ in range(2)] == ["", ""]
    assert harness.outcomes("lookups") == {"unfit": 2}
    sampled = CacheConfig(allow_nonzero_temperature=True)
    assert [(await harness.ask(sampled, asked)).cached for _ in range(2)] == ["", "exact"]


async def test_a_requests_own_temperature_counts(harness: CacheHarness) -> None:
    asked = another(QUESTION, sampling=Sampling(temperature=1.0))
    assert [(await harness.ask(EXACT, asked)).cached for _ in range(2)] == ["", ""]


async def test_an_answer_without_its_passages_is_not_stored(harness: CacheHarness) -> None:
    asked = another(QUESTION, versions=(), passages=())  # the retriever was unavailable, and the path allows that
    assert [(await harness.ask(EXACT, asked)).cached for _ in range(2)] == ["", ""]


async def test_per_user_separates_users_and_needs_a_user(harness: CacheHarness) -> None:
    config = CacheConfig(per_user=True)
    cached = [
        (await harness.ask(config, another(QUESTION, user=user))).cached for user in ("ann", "bob", "ann", "", "")
    ]
    assert cached == ["", "", "exact", "", ""]


async def test_users_of_a_tenant_share_answers_otherwise(harness: CacheHarness) -> None:
    cached = [(await harness.ask(EXACT, another(QUESTION, user=user))).cached for user in ("ann", "bob")]
    assert cached == ["", "exact"]


@pytest.mark.parametrize(
    "steps",
    [
        steps_of("cut", finish="length"),
        steps_of("bad", finish="content_filter"),
        steps_of("no end")[:1],
        steps_of(),
        [(Chunk(0, "a"), Chunk(1, "b")), (Chunk(0, finish_reason="stop"),)],
        steps_of("x" * (256 * 1024)),
    ],
    ids=["length", "filtered", "no reason", "nothing", "one choice of two", "too long"],
)
async def test_an_incomplete_answer_is_not_stored(harness: CacheHarness, steps: Any) -> None:
    harness.engine.says = steps
    assert [(await harness.ask(EXACT, QUESTION)).cached for _ in range(2)] == ["", ""]
    assert harness.outcomes("answers") == {"unfit": 2}


async def test_an_interrupted_answer_is_not_stored(harness: CacheHarness) -> None:
    harness.engine.error = Unavailable("it broke off", code="engine_unavailable")
    opened = await harness.caching(EXACT).call(QUESTION.request(), QUESTION.decision(), QUESTION.prompt(), NO_ATTEMPT)
    with pytest.raises(Unavailable):
        async for _ in chunks_of(opened.source):
            pass
    assert opened.accepted
    opened.accepted()
    assert harness.outcomes("answers") == {"unfit": 1}


async def test_an_answer_whose_client_disconnects_is_stopped_and_not_stored(harness: CacheHarness) -> None:
    opened = await harness.caching(EXACT).call(QUESTION.request(), QUESTION.decision(), QUESTION.prompt(), NO_ATTEMPT)
    async with aclosing(chunks_of(opened.source)) as chunks:  # type: ignore[type-var]  # a generator's
        await anext(chunks)
    assert harness.engine.closed == 1
    assert opened.accepted
    opened.accepted()
    assert harness.outcomes("answers") == {"unfit": 1}


async def test_an_answer_that_was_not_accepted_is_not_stored(harness: CacheHarness) -> None:
    await harness.ask(EXACT, QUESTION, accept=False)
    assert (await harness.ask(EXACT, QUESTION)).cached == ""


async def test_renew_generates_an_answer_and_replaces_the_stored_one(harness: CacheHarness) -> None:
    await harness.ask(EXACT, QUESTION)
    harness.engine.says = steps_of("They pay now.")
    renewed = await harness.ask(EXACT, another(QUESTION, wish="renew"))
    again = await harness.ask(EXACT, QUESTION)
    assert (renewed.cached, again.cached, again.text) == ("", "exact", "They pay now.")


async def test_off_neither_looks_up_nor_stores(harness: CacheHarness) -> None:
    off = another(QUESTION, wish="off")
    assert (await harness.ask(EXACT, off)).cached == ""
    assert (await harness.ask(EXACT, QUESTION)).cached == ""
    assert (await harness.ask(EXACT, off)).cached == ""
    assert harness.engine.times == 3


async def test_an_answer_expires(harness: CacheHarness) -> None:
    config = CacheConfig(ttl_seconds=1)
    await harness.ask(config, QUESTION)
    keys = harness.cache.store._redis.client

    async def gone() -> bool:
        return not [key async for key in keys.scan_iter("*:answer:*")]

    await found(gone)
    assert (await harness.ask(config, QUESTION)).cached == ""


async def test_a_prompt_that_is_very_long_is_not_cached(harness: CacheHarness) -> None:
    asked = another(QUESTION, text="x" * 70_000)
    assert [(await harness.ask(EXACT, asked)).cached for _ in range(2)] == ["", ""]


async def test_a_malformed_stored_answer_is_a_miss(harness: CacheHarness) -> None:
    await harness.ask(EXACT, QUESTION)
    client = harness.cache.store._redis.client
    keys = [key async for key in client.scan_iter("*:answer:*")]
    for foreign in '{"model": "x"}', "not json", '{"model": "x", "steps": [[[1]]]}':
        await client.set(keys[0], foreign)
        assert (await harness.ask(EXACT, QUESTION, accept=False)).cached == ""


async def test_the_size_limit_deletes_only_the_tenants_own_answers(valkey: Valkey) -> None:
    async with run_cache(valkey.url, most_bytes=12_000) as harness:
        harness.engine.says = steps_of("x" * 2000)
        await harness.ask(EXACT, another(QUESTION, tenant="south"))
        for number in range(8):
            await harness.ask(CacheConfig(ttl_seconds=1000 + number), another(QUESTION, text=f"question {number}"))
        kept = [
            (await harness.ask(EXACT, another(QUESTION, text=f"question {number}"), accept=False)).cached
            for number in range(8)
        ]
        assert kept == [""] * 4 + ["exact"] * 4
        assert (await harness.ask(EXACT, another(QUESTION, tenant="south"))).cached == "exact"
        client = harness.cache.store._redis.client
        sizes = [await client.hgetall(key) async for key in client.scan_iter("*:sizes")]
        for of_tenant in sizes:
            total = int(of_tenant.pop("total"))
            assert total == sum(int(about.split(" ")[0]) for about in of_tenant.values())
            assert total <= 12_000


async def test_while_valkey_hangs_engines_answer_and_afterwards_the_cache_is_used_again(valkey: Valkey) -> None:
    async with run_cache(valkey.url, deadline=0.05) as harness:
        await found(lambda: _is_kept(harness))
        valkey.hang()
        during = [await harness.ask(EXACT, QUESTION) for _ in range(5)]
        assert [gave.cached for gave in during] == [""] * 5
        assert harness.count("lookups", outcome="away") == 5
        assert harness.count("answers", outcome="away") == 5
        valkey.go_on()
        await found(lambda: _is_hit(harness))


async def test_valkey_that_hangs_during_an_answer_does_not_delay_it(valkey: Valkey) -> None:
    async with run_cache(valkey.url, deadline=0.05) as harness:
        opened = await harness.caching(EXACT).call(
            QUESTION.request(), QUESTION.decision(), QUESTION.prompt(), NO_ATTEMPT
        )
        answer = chunks_of(opened.source)
        first = await anext(answer)
        valkey.hang()
        rest = [chunks async for chunks in answer]
        assert [first, *rest] == harness.engine.says
        assert opened.accepted
        opened.accepted()
        valkey.go_on()


async def test_an_answer_whose_text_may_not_be_stored_is_not(valkey: Valkey) -> None:
    async with run_cache(valkey.url, storable=lambda text: "ann@" not in text) as harness:
        harness.engine.says = steps_of("Write to an", "n@exam", "ple.org")
        assert [(await harness.ask(EXACT, QUESTION)).cached for _ in range(2)] == ["", ""]
        assert harness.outcomes("answers") == {"unfit": 2}


async def test_redaction_sees_a_tool_calls_arguments_as_one_text(valkey: Valkey) -> None:
    async with run_cache(valkey.url, storable=lambda text: "ann@" not in text) as harness:
        pieces = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"to": "an', 'n@x"}')]
        harness.engine.says = [*((Chunk(extra={"delta": piece}),) for piece in pieces), *steps_of(finish="tool_calls")]
        assert [(await harness.ask(EXACT, QUESTION)).cached for _ in range(2)] == ["", ""]
        assert harness.outcomes("answers") == {"unfit": 2}


def _piece(call: int, piece: str) -> dict[str, Any]:
    return {"delta": {"tool_calls": [{"index": call, "function": {"arguments": piece}}]}}


BY_TURNS: dict[str, list[Chunk]] = {
    "two calls": [Chunk(extra=_piece(0, "an")), Chunk(extra=_piece(1, "{}")), Chunk(extra=_piece(0, "n@x"))],
    "thoughts beside tokens": [
        Chunk(extra={"delta": {"reasoning": piece}, "logprobs": {"content": [{"token": piece, "logprob": -1}]}})
        for piece in ("a", "nn", "@x")
    ],
    "two choices": [Chunk(0, "an"), Chunk(1, "Hello"), Chunk(0, "n@x")],
}


@pytest.mark.parametrize("what", BY_TURNS)
async def test_redaction_sees_interleaved_texts_separately(valkey: Valkey, what: str) -> None:
    async with run_cache(valkey.url, storable=lambda text: "ann@" not in text) as harness:
        harness.engine.says = [*((chunk,) for chunk in BY_TURNS[what]), *steps_of()]
        assert [(await harness.ask(EXACT, QUESTION)).cached for _ in range(2)] == ["", ""]
        assert harness.outcomes("answers") == {"unfit": 2}


async def test_redaction_does_not_join_unrelated_texts(valkey: Valkey) -> None:
    async with run_cache(valkey.url, storable=lambda text: "ann@" not in text) as harness:
        harness.engine.says = [(Chunk(extra=_piece(0, "an")),), (Chunk(extra=_piece(1, "n@x")),), *steps_of()]
        assert await _is_kept(harness)


async def _is_kept(harness: CacheHarness) -> bool:
    await harness.ask(EXACT, QUESTION)
    return (await harness.ask(EXACT, QUESTION)).cached == "exact"


async def _is_hit(harness: CacheHarness) -> bool:
    return (await harness.ask(EXACT, QUESTION)).cached == "exact"
