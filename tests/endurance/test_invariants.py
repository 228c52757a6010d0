"""Each invariant of the endurance test reports a violation, and reports nothing if there is none."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from tests.endurance.engines import EngineKind
from tests.endurance.invariants import Invariants
from tests.endurance.load import Load
from tests.endurance.schedule import Event
from tests.endurance.truth import History, Record, Truth
from tests.endurance.world import SPENDER_PER_MINUTE, World
from tests.gateway.doubles.process_gateway import ProcessGateway

NOT_USED = cast(Any, None)
MINUTE = 60 * 28_000_000
"""The first second of a minute, in Unix time."""
NEVER_ACKNOWLEDGED = float("inf")
RIGHT = Record(
    "chat", "gateway-a", "key", deadline=3.0, sent=100.0, ended=102.0,
    model="triage-2", text="triage-2 says", adapter="triage",
)  # fmt: skip


@pytest.fixture
def truth() -> Truth:
    truth = Truth()
    truth.aliases["triage"] = History([(0.0, 0.0, "triage-1"), (50.0, 51.0, "triage-2")])
    truth.document = History([(0.0, 0.0, "revision-1-"), (50.0, 51.0, "revision-2-")])
    return truth


@pytest.fixture
def events() -> list[Event]:
    """The faults of a run that began at 0; empty, unless a test adds some."""
    return []


@pytest.fixture
def invariants(tmp_path: Path, truth: Truth, events: list[Event]) -> Invariants:
    kind = EngineKind(tmp_path, {}, {}, lambda model, text, known: text.startswith(model), 1.0, 1)
    gateways = {"gateway-a": ProcessGateway(tmp_path, {})}
    world = World(tmp_path, kind, NOT_USED, NOT_USED, NOT_USED, gateways, {})
    return Invariants(world, truth, Load(world, truth, 1.0), events, 0.0)


def violations(invariants: Invariants, *records: Record) -> list[str]:
    invariants.load.records += records
    invariants.check_records()
    return invariants.violations


def test_a_right_answer_violates_nothing(invariants: Invariants) -> None:
    assert violations(invariants, RIGHT) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"ended": 104.5}, "ended 1.5 s after its deadline (answered)"),
        ({"ended": 104.5, "code": "deadline_exceeded"}, "ended 1.5 s after its deadline (deadline_exceeded)"),
        ({"code": "cut off"}, "the stream ended without an end or an error"),
        ({"code": "internal"}, "failed by an internal error"),
        ({"code": "no answer: TimeoutError"}, "has no answer 60 s after its deadline"),
        ({"text": "triage-1 says"}, "'triage-1 says' is no text of triage-2"),
        (
            {"model": "triage-1", "text": "triage-1 says"},
            "triage-1 answered, of triage@prod, which pointed to ['triage-2']",
        ),
        (
            {"prompt": "revision-1- of the page"},
            "the prompt has ['revision-1-'] of the document; ['revision-2-'] were current",
        ),
    ],
)
def test_a_wrong_answer_is_reported(invariants: Invariants, changed: Mapping[str, Any], problem: str) -> None:
    (found,) = violations(invariants, replace(RIGHT, **changed))
    assert found == f"chat at gateway-a, sent at 100.0 s: {problem}"


def test_during_a_change_both_versions_are_right(invariants: Invariants, truth: Truth) -> None:
    truth.aliases["triage"].changes.append((101.0, NEVER_ACKNOWLEDGED, "triage-3"))
    truth.document.changes.append((101.0, NEVER_ACKNOWLEDGED, "revision-3-"))
    old, new = (replace(RIGHT, model=model, text=model, prompt=text) for model, text in
                (("triage-2", "revision-2-"), ("triage-3", "revision-3-")))  # fmt: skip
    assert violations(invariants, old, new) == []


def test_a_late_answer_of_a_suspended_gateway_is_none(invariants: Invariants, events: list[Event]) -> None:
    events.append(Event(98.0, "pause", "gateway-a", 5.0, 0))
    assert violations(invariants, replace(RIGHT, ended=110.0)) == []


@pytest.mark.parametrize(
    ("receipts", "problems"),
    [
        ({"dec_1": {"cost_usd": 0.5}}, []),
        ({}, ["1 answers have no receipt"]),
        ({"dec_1": {"cost_usd": 0.4}}, ["1 receipts state another cost than the client was told"]),
    ],
)
def test_each_answer_has_a_receipt_with_its_cost(
    invariants: Invariants, receipts: dict[str, dict[str, Any]], problems: list[str]
) -> None:
    invariants.load.records.append(replace(RIGHT, decision="dec_1", cost_usd=0.5))
    invariants.receipts = receipts
    assert list(invariants._missing_receipts()) == problems


def test_a_key_that_spends_too_much_is_reported_unless_redis_was_disturbed(
    invariants: Invariants, events: list[Event]
) -> None:
    offset = time.time() - time.monotonic()
    spent = Record(
        "spender", "gateway-a", "key", 3.0, sent=MINUTE + 1 - offset, wall=MINUTE + 1, ended=MINUTE + 2 - offset
    )
    invariants.load.records += [spent] * SPENDER_PER_MINUTE
    invariants.check_spender()
    assert invariants.violations == []
    invariants.load.records.append(spent)
    invariants.check_spender()
    assert invariants.violations == ["21 requests of a key in a minute; the bound is 20"]
    events.append(Event(MINUTE - offset, "pause", "valkey", 15.0, 0))
    invariants.check_spender()
    assert len(invariants.violations) == 1


@asynccontextmanager
async def gateway_that_answers(status: int) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("status", "is_violation", "is_asked_again"), [(401, 0, 0), (200, 1, 0), (503, 0, 1)])
async def test_a_revoked_key_must_be_refused(
    invariants: Invariants, truth: Truth, status: int, is_violation: int, is_asked_again: int
) -> None:
    async with gateway_that_answers(status) as url:
        invariants.world.gateways["gateway-a"].url = url
        truth.revoked["sk-revoked"] = time.monotonic() - 2.0
        await invariants.check_revocations()
    assert (len(invariants.violations), len(truth.revoked)) == (is_violation, is_asked_again)
