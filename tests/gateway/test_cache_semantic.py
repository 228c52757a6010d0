"""The semantic cache returns answers to similar questions: within one partition, above the threshold, and never across
tenants."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pointsman_embedding import MiniLM
from pointsman_gateway.cache.keys import distinguishing_words
from pointsman_gateway.cache.store import MAX_PARTITIONS, MAX_QUESTIONS, SimilarQuestions, encode_vector, parse_question
from pointsman_gateway.cache.store import Question as Known
from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.domain import Message, Path, Sampling, Vector

from tests.gateway.doubles.caching import (
    GREEDY,
    PASSAGE,
    PATH,
    CacheHarness,
    Question,
    another,
    run_cache,
    steps_of,
    unit,
)
from tests.gateway.doubles.valkey import Valkey

ALIKE = CacheConfig(similarity_threshold=0.95)
FIRST = Question("May my bike ride?", vector=unit(1))
NEAR = Question("Can my bike come along?", vector=unit(1, 0.1))  # cosine 0.995
FAR = Question("How do I pay?", vector=unit(1, 1))  # cosine 0.707


@pytest.fixture
async def harness(valkey: Valkey) -> AsyncIterator[CacheHarness]:
    async with run_cache(valkey.url) as harness:
        yield harness


@pytest.fixture
async def another_gateway(valkey: Valkey) -> AsyncIterator[CacheHarness]:
    async with run_cache(valkey.url) as harness:
        yield harness


async def test_a_similar_question_gets_the_answer_and_reports_it(harness: CacheHarness) -> None:
    first = await harness.ask(ALIKE, FIRST)
    near = await harness.ask(ALIKE, NEAR)
    assert (near.cached, near.steps, harness.engine.times) == ("semantic", first.steps, 1)
    assert harness.outcomes("lookups") == {"miss": 1, "semantic": 1}


async def test_a_question_below_the_threshold_is_a_miss(harness: CacheHarness) -> None:
    await harness.ask(ALIKE, FIRST)
    assert (await harness.ask(ALIKE, FAR)).cached == ""
    assert (await harness.ask(CacheConfig(similarity_threshold=0.999), NEAR)).cached == ""


async def test_the_nearest_of_several_answers(harness: CacheHarness) -> None:
    for number, question in enumerate((FIRST, FAR, Question("And dogs?", vector=unit(0, 0, 1)))):
        harness.engine.says = steps_of(f"answer {number}")
        await harness.ask(ALIKE, question)
    assert (await harness.ask(ALIKE, Question("Paying how?", vector=unit(1, 0.95)))).text == "answer 1"


async def test_without_a_threshold_only_the_same_question_hits(harness: CacheHarness) -> None:
    await harness.ask(CacheConfig(), FIRST)
    assert (await harness.ask(CacheConfig(), NEAR)).cached == ""


async def test_gateways_share_their_questions(harness: CacheHarness, another_gateway: CacheHarness) -> None:
    await another_gateway.ask(ALIKE, FIRST)
    assert (await harness.ask(ALIKE, NEAR)).cached == "semantic"
    await another_gateway.ask(ALIKE, FAR)
    assert (await harness.ask(ALIKE, Question("Paying how?", vector=unit(1, 0.95)))).cached == "semantic"


TOOLS = Sampling(extra={"tools": [{"type": "function", "function": {"name": "f"}}]})
OTHERS: dict[str, Any] = {
    "tenant": another(NEAR, tenant="south"),
    "path": another(NEAR, path=replace(PATH, name="letter")),
    "prompt file": another(NEAR, path=replace(PATH, fingerprint="f2")),
    "model": another(NEAR, path=replace(PATH, model="large")),
    "collection": another(NEAR, versions=(("handbook", 8),)),
    "passages": another(NEAR, passages=(replace(PASSAGE, document_id="dogs.md"),)),
    "sampling": another(NEAR, sampling=Sampling(max_tokens=9)),
    "response_format": another(NEAR, sampling=Sampling(extra={"response_format": {"type": "json_object"}})),
    "earlier turns": another(NEAR, before=(Message("system", "The customer is Ann."),)),
    "who speaks": another(NEAR, beside={"name": "ann"}),
    "a figure": another(NEAR, text="May my 2 bikes ride?"),
    "a number in words": another(NEAR, text="May my two bikes ride?"),
    "a negation": another(NEAR, text="May my bike not ride?"),
    "tools": another(NEAR, sampling=TOOLS),
    "several choices": another(NEAR, sampling=Sampling(extra={"n": 2})),
    "a long text": another(NEAR, text="May my bike ride? " * 80),
    "another model's vector": another(NEAR, vector=unit(1)[:256]),
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_similar_question_that_differs_in_any_of_these_is_a_miss(harness: CacheHarness, what: str) -> None:
    await harness.ask(ALIKE, FIRST)
    harness.engine.model = OTHERS[what].path.model
    assert (await harness.ask(ALIKE, OTHERS[what])).cached == ""
    assert harness.engine.times == 2


async def test_two_tenants_with_the_same_and_near_questions_never_see_each_others_answers(
    harness: CacheHarness,
) -> None:
    for tenant in ("north", "south"):
        harness.engine.says = steps_of(f"the answer of {tenant}")
        assert (await harness.ask(ALIKE, another(FIRST, tenant=tenant))).cached == ""
    for tenant in ("north", "south"):
        for question, how in ((FIRST, "exact"), (NEAR, "semantic")):
            gave = await harness.ask(ALIKE, another(question, tenant=tenant))
            assert (gave.cached, gave.text) == (how, f"the answer of {tenant}")


async def test_another_version_of_the_adapter_misses(harness: CacheHarness) -> None:
    path = Path("triage_adapter", "tiny", adapter="triage@prod", sampling=GREEDY)
    for version, question in (("triage@1111", FIRST), ("triage@2222", NEAR)):
        harness.versions["triage@prod"] = harness.engine.model = version
        assert (await harness.ask(ALIKE, another(question, path=path, versions=()))).cached == ""


async def test_an_answer_with_tools_is_never_reused_for_a_similar_question(harness: CacheHarness) -> None:
    await harness.ask(ALIKE, another(FIRST, sampling=TOOLS))
    assert (await harness.ask(ALIKE, another(NEAR, sampling=TOOLS))).cached == ""
    assert (await harness.ask(ALIKE, another(FIRST, sampling=TOOLS))).cached == "exact"


async def test_a_conversation_with_a_tool_result_is_never_similar(harness: CacheHarness) -> None:
    result = (Message("tool", "4", {"tool_call_id": "c1"}),)
    await harness.ask(ALIKE, another(FIRST, after=result))
    assert (await harness.ask(ALIKE, another(NEAR, after=result))).cached == ""


async def test_a_question_without_a_vector_is_embedded_if_there_is_an_encoder(harness: CacheHarness) -> None:
    embeds = _Embeds()
    bare_first, bare_near = another(FIRST, vector=None), another(NEAR, vector=None)
    await harness.ask(ALIKE, bare_first, embed=embeds)
    assert (await harness.ask(ALIKE, bare_near, embed=embeds)).cached == "semantic"
    assert (await harness.ask(ALIKE, bare_first, embed=embeds)).cached == "exact"
    assert embeds.texts == [FIRST.text, NEAR.text]


async def test_a_question_without_a_vector_is_a_miss_without_an_encoder(harness: CacheHarness) -> None:
    await harness.ask(ALIKE, another(FIRST, vector=None))
    assert (await harness.ask(ALIKE, NEAR)).cached == ""


async def test_an_answer_that_expired_in_valkey_is_a_miss_and_its_question_is_removed(harness: CacheHarness) -> None:
    await harness.ask(ALIKE, FIRST)
    assert (await harness.ask(ALIKE, NEAR)).cached == "semantic"
    await harness.cache.store._redis.client.flushall()
    assert (await harness.ask(ALIKE, NEAR, accept=False)).cached == ""
    assert (await harness.ask(ALIKE, NEAR)).cached == ""
    assert (await harness.ask(ALIKE, NEAR)).cached == "exact"


async def test_deleting_an_answer_deletes_its_question(valkey: Valkey) -> None:
    async with run_cache(valkey.url, most_bytes=9_000) as harness:
        for number in range(6):
            vector = unit(*[0] * number, 1)
            config = CacheConfig(similarity_threshold=0.95, ttl_seconds=1000 + number)
            await harness.ask(config, another(FIRST, text=f"question {'abcdef'[number]}", vector=vector))
        client = harness.cache.store._redis.client
        streams = [key async for key in client.scan_iter("*:near:*")]
        answers = [key async for key in client.scan_iter("*:answer:*")]
        assert len(streams) == 1
        assert await client.xlen(streams[0]) == len(answers) < 6


async def test_renewing_replaces_the_stored_answer(harness: CacheHarness) -> None:
    await harness.ask(ALIKE, FIRST)
    harness.engine.says = steps_of("They pay now.")
    await harness.ask(ALIKE, another(FIRST, wish="renew"))
    assert (await harness.ask(ALIKE, NEAR)).text == "They pay now."
    client = harness.cache.store._redis.client
    assert [await client.xlen(key) async for key in client.scan_iter("*:near:*")] == [1]


class _Embeds:
    """Implements `Embed` with a scripted vector for each text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(self, text: str) -> Vector:
        self.texts.append(text)
        return unit(1, 0.01 * len(self.texts))


def known(number: int, vector: Vector) -> Known:
    return Known(f"{number}-0", f"answer {number}", vector)


def test_known_questions_are_ignored_and_only_the_newest_are_held() -> None:
    neighbours = SimilarQuestions()
    news = [known(number, unit(1, number)) for number in range(1, MAX_QUESTIONS + 50)]
    for _ in range(2):
        neighbours.update("p", news)
    assert neighbours.nearest("p", unit(1, 1), 0.9999) == ""  # the oldest entries are evicted
    assert neighbours.nearest("p", unit(1, MAX_QUESTIONS + 49), 0.9999) != ""
    assert neighbours.last_id("p") == f"{MAX_QUESTIONS + 49}-0"


def test_the_number_of_partitions_in_memory_is_limited() -> None:
    neighbours = SimilarQuestions()
    for number in range(MAX_PARTITIONS + 1):
        neighbours.update(f"p{number}", [known(1, unit(1))])
    assert neighbours.last_id("p0") == ""
    assert neighbours.last_id("p1") == "1-0"


def test_a_vector_is_read_as_it_was_written() -> None:
    vector = unit(0.3, -0.2, 0.1)
    read = parse_question("1-0", {"vector": encode_vector(vector), "answer": "a"})
    assert read is not None
    assert np.array_equal(read.vector, vector)
    for broken in {"vector": "!!!", "answer": "a"}, {"vector": "AAA=", "answer": "a"}, {"answer": "a"}:
        assert parse_question("1-0", broken) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Refund booking AB12, please!", ["ab12"]),
        ("From 3 to 5, not 5 to 3", ["3", "5", "not", "5", "3"]),
        ("I don’t need it", ["don't"]),
        ("The SECOND train", ["second"]),
        ("Hello there", []),
    ],
)
def test_numbers_and_negations_distinguish_questions(text: str, words: list[str]) -> None:
    assert distinguishing_words(text) == words


def test_the_encoder_alone_would_confuse_these_questions(minilm: MiniLM) -> None:
    pairs = [
        ("Refund booking AB12 for Monday", "Refund booking AB13 for Monday"),
        ("Are dogs allowed on the train?", "Are dogs not allowed on the train?"),
        ("A ticket for two adults to Saltby", "A ticket for three adults to Saltby"),
    ]
    for one, other in pairs:
        vectors = minilm.embed([one, other])
        assert vectors[0] @ vectors[1] > 0.8
        assert distinguishing_words(one) != distinguishing_words(other)
