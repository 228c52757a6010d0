"""Statistics of each path on each task: exact counts, shared by all gateways, over a window of days."""

from contextlib import suppress
from dataclasses import replace

import pytest
from pointsman_gateway.domain import Feedback, PathEvidence, PathScore
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import EvidenceKey, EvidenceStore
from pointsman_gateway.request_log.store import Batch
from pointsman_lab.redis_log import open_redis_log
from pointsman_lab.request_log import read_evidence
from pointsman_servicekit.errors import PointsmanError, Unavailable
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.request_logs import (
    ADAPTED,
    PLAIN,
    REQUEST,
    RequestLogHarness,
    decision,
    receipt,
    run_request_log,
)
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

ERROR = 0.025
"""Maximum relative error of a quantile."""


def test_an_answer_counts_immediately() -> None:
    board = EvidenceStore()
    for seconds in (*[0.5] * 95, *[2.0] * 5):
        board.count_answer(receipt(decision(), seconds=seconds, cost_usd=seconds / 1e6))
    known = board.of("chat", PLAIN)
    assert (known.answers, known.ratings, known.quality) == (100, 0, 0)
    assert known.p95_seconds == pytest.approx(0.5, rel=ERROR)
    assert known.mean_cost_usd == pytest.approx(0.575e-6)
    board.count_answer(receipt(decision(), seconds=2.0))
    assert board.of("chat", PLAIN).p95_seconds == pytest.approx(2.0, rel=ERROR)


@pytest.mark.parametrize("outcome", ["cancelled", "engine_error"])
def test_an_incomplete_answer_does_not_count(outcome: str) -> None:
    board = EvidenceStore()
    board.count_answer(receipt(decision(), outcome=outcome))
    assert board.of("chat", PLAIN) == PathEvidence()


def test_statistics_belong_to_a_task_a_path_definition_and_an_adapter_version() -> None:
    board = EvidenceStore()
    version = "triage@111111111111"
    board.versions = lambda path: version if path.adapter else ""
    board.count_answer(receipt(decision(task="triage", path=ADAPTED), model=version))
    assert board.of("triage", ADAPTED).answers == 1
    assert board.of("chat", ADAPTED).answers == 0
    assert board.of("triage", replace(ADAPTED, name="other")).answers == 0
    assert board.of("triage", replace(ADAPTED, fingerprint="another prompt")).answers == 0
    version = "triage@222222222222"  # the alias has changed
    assert board.of("triage", ADAPTED).answers == 0


async def test_an_evaluation_replaces_what_it_has_counted_before(harness: RequestLogHarness) -> None:
    async def known(evaluation: str, rows: int, score: float) -> tuple[float, float]:
        await harness.store.add_evaluation(evaluation, [PathScore("chat", PLAIN, "tiny", rows, score)])
        await harness.read_evidence()
        evidence = harness.board.of("chat", PLAIN)
        assert evidence.ratings == 0
        return evidence.evaluated, evidence.score

    assert await known("a", 40, 0.5) == (40, 0.5)
    assert await known("a", 40, 0.5) == (40, 0.5)
    assert await known("a", 100, 0.75) == (100, 0.75)  # continued, or repeated
    assert await known("another", 100, 0.25) == (200, 0.5)


async def test_an_evaluation_counts_for_the_version_that_answered(harness: RequestLogHarness) -> None:
    versions = ["triage@111111111111", "triage@222222222222"]
    scores = [PathScore("triage", ADAPTED, version, 10 + at, 1.0) for at, version in enumerate(versions)]
    await harness.store.add_evaluation("a", scores)
    await harness.read_evidence()
    for at, version in enumerate(versions):
        harness.board.versions = lambda path, version=version: version  # type: ignore[misc]  # a bound default
        assert harness.board.of("triage", ADAPTED).evaluated == 10 + at


async def test_offline_the_current_version_is_the_one_that_answered_not_the_one_evaluated_later(
    harness: RequestLogHarness, valkey: Valkey
) -> None:
    answering, evaluated = "triage@111111111111", "triage@222222222222"
    made = decision("d1", "triage", ADAPTED)
    async with open_redis_log(valkey.url) as log:
        await harness.store.add_evaluation("a", [PathScore("triage", ADAPTED, evaluated, 10, 1.0)])
        assert (await read_evidence(log, 2)).versions(ADAPTED) == evaluated
        harness.recorder.note(REQUEST, made, receipt(made, model=answering))
        await harness.written()
        await harness.store.add_evaluation("b", [PathScore("triage", ADAPTED, f"{evaluated[:-1]}3", 10, 1.0)])
        assert (await read_evidence(log, 2)).versions(ADAPTED) == answering


async def test_what_an_evaluation_counted_on_an_expired_day_is_not_subtracted(
    harness: RequestLogHarness, valkey: Valkey
) -> None:
    async with open_client(valkey.url) as redis:
        key = str(EvidenceKey("chat", PLAIN.name, PLAIN.fingerprint, ""))
        await redis.client.hset(redis_schema.EVALUATION + "a", key, "20200101 40 40000000")
        await harness.store.add_evaluation("a", [PathScore("chat", PLAIN, "tiny", 40, 1.0)])
        assert not await redis.client.exists(redis_schema.EVIDENCE + "20200101")
        assert await redis.client.ttl(redis_schema.EVALUATION + "a") > 0
    await harness.read_evidence()
    assert harness.board.of("chat", PLAIN).evaluated == 40


async def exchange(*desks: RequestLogHarness) -> None:
    for harness in desks:
        await harness.recorder.write()
    for harness in desks:
        await harness.read_evidence()


async def test_all_gateways_have_the_same_statistics(harness: RequestLogHarness, valkey: Valkey) -> None:
    async with run_request_log(valkey.url) as other:
        harness.note("a1", "a2")
        other.note("b1")
        await exchange(harness, other)
        assert harness.board.of("chat", PLAIN) == other.board.of("chat", PLAIN)
        assert harness.board.of("chat", PLAIN).answers == 3
        other.note("b2")  # not sent yet, but known locally
        await other.read_evidence()
        assert other.board.of("chat", PLAIN).answers == 4
        await exchange(harness, other)
        await exchange(harness, other)  # nothing is added twice
        assert harness.board.of("chat", PLAIN) == other.board.of("chat", PLAIN)
        assert harness.board.of("chat", PLAIN).answers == 4


async def test_a_rating_counts_for_the_path_that_answered_and_can_be_replaced(harness: RequestLogHarness) -> None:
    version = "triage@111111111111"
    harness.board.versions = lambda path: version if path.adapter else ""
    made = decision("d1", "triage", ADAPTED)
    harness.recorder.note(REQUEST, made, receipt(made, model=version))
    harness.note("d2")
    await harness.recorder.write()
    for name, rating in (("first", 0.1), ("second", 0.7), ("second", 0.7)):
        await harness.store.add_feedback(Feedback("d1", name, rating=rating), 1000, "c")
    await harness.store.add_feedback(Feedback("d2", "words", correction="No."), 1000, "c")
    await harness.read_evidence()
    known = harness.board.of("triage", ADAPTED)
    assert (known.ratings, known.quality, known.answers) == (1, 0.7, 1)
    assert harness.board.of("chat", PLAIN).ratings == 0


async def test_ratings_add_up_without_rounding(harness: RequestLogHarness) -> None:
    names = [f"d{number}" for number in range(10)]
    harness.note(*names)
    await harness.recorder.write()
    for name in names:
        for feedback_id, rating in (("first", 1 / 3), ("second", 0.1)):
            await harness.store.add_feedback(Feedback(name, feedback_id, rating=rating), 1000, "c")
    await harness.read_evidence()
    assert harness.board.of("chat", PLAIN).quality == 0.1


async def test_a_new_gateway_reads_existing_statistics(harness: RequestLogHarness, valkey: Valkey) -> None:
    harness.note("d1", "d2")
    await harness.recorder.write()
    async with run_request_log(valkey.url) as later:
        await later.read_evidence()
        assert later.board.of("chat", PLAIN).answers == 2


async def test_statistics_are_sent_once_redis_returns(harness: RequestLogHarness, valkey: Valkey) -> None:
    valkey.kill()
    harness.note("d1")
    with pytest.raises(Unavailable):
        await harness.recorder.write()
    harness.note("d2")
    assert harness.board.of("chat", PLAIN).answers == 2
    await valkey.start()
    await harness.written()
    async with run_request_log(valkey.url) as other:
        await other.read_evidence()
        assert other.board.of("chat", PLAIN).answers == 2


async def test_unsent_statistics_survive_a_read_from_redis(harness: RequestLogHarness, valkey: Valkey) -> None:
    valkey.kill()
    harness.note("d1")
    with pytest.raises(Unavailable):
        await harness.recorder.write()
    await valkey.start()

    async def read() -> bool:
        with suppress(Unavailable):
            await harness.store.evidence(redis_schema.today())
            await harness.read_evidence()
            return True
        return False

    await found(read)
    assert harness.board.of("chat", PLAIN).answers == 1


async def test_days_outside_of_the_window_are_dropped(harness: RequestLogHarness) -> None:
    today, yesterday, before = redis_schema.last_days(3)
    cell = EvidenceKey("chat", "small_talk", "f1", "")
    counts = {day: {cell: {"answers": number}} for day, number in ((today, 1), (yesterday, 10), (before, 100))}
    await harness.store.write(Batch(1, [], counts))
    for day in counts:
        await harness.recorder.read_evidence(day)
    assert harness.board.of("chat", PLAIN).answers == 111
    harness.board.window = 2
    await harness.recorder.read_evidence(redis_schema.last_days(4)[3])  # an unknown, later day
    assert harness.board.of("chat", PLAIN).answers == 11


async def test_without_redis_a_gateway_uses_its_own_statistics(
    api: ApiClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    await api.ask(IN_CHAT)
    known = gateway.known("chat", "small_talk")
    assert (known.answers, known.ratings) == (1, 0)
    assert known.mean_cost_usd == pytest.approx(28e-6)
    assert known.p95_seconds > 0


async def test_without_redis_feedback_is_rejected_with_the_required_setting(api: ApiClient) -> None:
    with pytest.raises(PointsmanError, match="POINTSMAN_GATEWAY_REDIS_URL") as raised:
        await api.say("d", rating=1.0)
    assert raised.value.code == "no_request_log"
