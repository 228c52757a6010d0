"""The charges of each engine's answer according to a receipt in the request log, and the costs of one's own engines
that follow."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pointsman_gateway.domain import UNPRICED, AttemptCharge, Receipt, TokenDetails, UndecidedReceipt, Usage
from pointsman_gateway.request_log.entry import PendingEntry, to_entry, to_undecided_json
from pointsman_lab.reconcile.charges import Charge, charges_of
from pointsman_lab.reconcile.exports.lines import TOOLS
from pointsman_lab.reconcile.own_engines import engine_hours

from tests.gateway.doubles.request_logs import REQUEST, decision

NOW = 1_800_000_000.0
HOUR = 3600.0
DETAILS = TokenDetails(cache_write=30, reasoning=4, service_tier="flex", is_estimate=True, tool_requests=2)
PARTS = {"prompt": 50, "cached": 20, "completion": 16, "cache_write": 90, "reasoning": 8, "tool": 7, "training": 5,
         "retrieval": 3, "embedding": 2, "request": 11}  # fmt: skip
RECEIPT = Receipt(
    decision(), Usage(100, 8, 20, details=DETAILS), PARTS, {"total": 9.0, "prefill": 1.0, "generation": 4.0}, "ok",
    model="tiny", engine="fleet/3",
)  # fmt: skip


def charges(receipt: Receipt, **changed: Any) -> list[Charge]:
    entry = json.loads(to_entry(PendingEntry(NOW, REQUEST, receipt.decision, receipt), store_messages=False).json)
    return list(charges_of(json.dumps(entry | changed)))


def test_a_receipt_has_the_tokens_dollars_and_times_of_its_answer() -> None:
    (charge,) = charges(RECEIPT)
    assert charge == Charge(
        NOW - 9, NOW, "fleet", "tiny", "flex",
        {"prompt": 50, "cached": 20, "completion": 4, "cache_write": 30, "reasoning": 4, TOOLS: 2},
        {"prompt": 50, "cached": 20, "completion": 16, "cache_write": 90, "reasoning": 8, TOOLS: 7, "request": 11},
        True, True, False, (NOW - 5, NOW), "fleet/3",
    )  # fmt: skip


def test_each_answer_of_several_is_a_charge_of_its_engine() -> None:
    first = AttemptCharge("a", "small", Usage(10, 1), {"prompt": 10, "completion": 4, "hedge": 10})
    second = AttemptCharge("b", "large", Usage(12, 2), {UNPRICED: 0})
    one, other = charges(replace(RECEIPT, attempts=(first, second)))
    assert (one.engine, one.model, one.counts, one.is_hedged) == ("a", "small", {"prompt": 10, "completion": 1}, True)
    assert (other.engine, other.counts, other.picodollars, other.is_priced) == (
        "b", {"prompt": 12, "completion": 2}, {}, False,
    )  # fmt: skip


@pytest.mark.parametrize("changed", [{"cached": "exact"}, {"v": 99}, {"model": "", "engine": ""}])
def test_what_no_engine_answered_is_no_charge(changed: dict[str, Any]) -> None:
    assert charges(RECEIPT, **changed) == []


def test_an_answer_without_tokens_is_no_charge() -> None:
    assert charges(replace(RECEIPT, usage=Usage(), picodollars={})) == []


def test_a_receipt_of_an_earlier_version_names_no_engine() -> None:
    entry = json.loads(to_entry(PendingEntry(NOW, REQUEST, RECEIPT.decision, RECEIPT), store_messages=False).json)
    del entry["engine"]
    (charge,) = charges_of(json.dumps(entry))
    assert (charge.engine, charge.model) == ("", "tiny")


def test_a_request_for_embeddings_is_a_charge_of_its_model() -> None:
    receipt = UndecidedReceipt(
        "r", "embeddings", "ok", "none", {"total": 2.0}, model="vectors", usage=Usage(40), picodollars={"embedding": 8}
    )
    (charge,) = charges_of(to_undecided_json(receipt, NOW))
    assert (charge.engine, charge.counts, charge.picodollars) == ("vectors", {"prompt": 40}, {"prompt": 8})
    rejected = UndecidedReceipt("r", "chat", "unknown_model", "caller", {"total": 2.0})
    assert list(charges_of(to_undecided_json(rejected, NOW))) == []


# -- engines of one's own


def busy(engine: str, begin: float, end: float, tokens: int = 500_000, member: str = "") -> Charge:
    return Charge(begin, end, engine, "m", "", {"prompt": tokens}, {}, busy=(begin, end), member=member or engine)


def test_engines_cost_their_hours_and_a_million_tokens_cost_more_the_less_they_are_used() -> None:
    made = [busy("a", NOW, NOW + HOUR), busy("a", NOW + HOUR / 2, NOW + 2 * HOUR), busy("b", NOW, NOW + HOUR)]
    hours = engine_hours(made, {"a": 3.0, "idle": 1.0}, (NOW, NOW + 10 * HOUR), {})
    used, idle = hours
    assert (used.hours, used.busy_hours, used.utilization, used.usd) == (10.0, 2.0, 0.2, 30.0)
    assert used.usd_per_million_tokens == 30.0
    assert (idle.utilization, idle.usd, idle.usd_per_million_tokens) == (0.0, 10.0, None)


def test_each_member_of_a_group_costs_its_hours() -> None:
    made = [busy("fleet", NOW, NOW + HOUR, member=f"fleet/{at}") for at in (0, 1)]
    (fleet,) = engine_hours(made, {"fleet": 2.0}, (NOW, NOW + 4 * HOUR), {})
    assert (fleet.members, fleet.hours, fleet.usd, fleet.utilization) == (2, 8.0, 16.0, 0.25)


def test_what_was_paid_is_compared_with_the_hours_at_the_configured_price() -> None:
    made = [busy("a", NOW, NOW + HOUR)]
    period = (NOW, NOW + 10 * HOUR)
    (same,) = engine_hours(made, {"a": 3.0}, period, {"a": 30.0})
    assert (same.share, same.cause) == (0.0, "")
    (more,) = engine_hours(made, {"a": 3.0}, period, {"a": 36.0})
    assert more.share == pytest.approx(1 / 6)
    assert more.cause == "paid for 12.0 h at this price, or $3.6 an hour for these hours"
    assert more.usd_per_million_tokens == 72.0
