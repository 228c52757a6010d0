"""Receipts of 10,000 requests agree with what the provider sold, to the last token and picodollar; each seeded fault is
found and named. `make test-reconcile` runs it.
"""

import json
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.request_log import redis_schema
from pointsman_lab.reconcile import causes
from pointsman_lab.reconcile.reconciliation import ReconcileOrder, reconcile
from pointsman_lab.reconcile.selection import Selection
from pointsman_lab.redis_log import open_redis_log
from pointsman_lab.report import Report
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.reconcile.simulation import KEYS, REQUESTS, SOL, Simulated

Entry = dict[str, Any]


async def reconciled(simulated: Simulated, entries: Iterable[Entry], folder: Path) -> Report:
    """Reconciles all exports with a request log that has these entries."""
    async with running_valkey(folder / "valkey") as valkey:
        await write(valkey, entries)
        order = ReconcileOrder(tuple(simulated.exports.values()), Fraction(0), selection=Selection(keys=KEYS))
        async with open_redis_log(valkey.url) as log:
            return await reconcile(order, simulated.config, log)


async def write(valkey: Valkey, entries: Iterable[Entry]) -> None:
    async with open_client(valkey.url) as redis:
        pipeline = redis.client.pipeline(transaction=False)
        for entry in sorted(entries, key=lambda one: one["unix_ms"]):
            fields = {"decision": entry["id"], "entry": json.dumps(entry)}
            pipeline.xadd(redis_schema.DECISIONS, fields, id=f"{int(entry['unix_ms'])}-*")
        await pipeline.execute()


async def test_receipts_and_the_providers_ledger_do_not_differ(simulated: Simulated, tmp_path: Path) -> None:
    report = await reconciled(simulated, simulated.entries, tmp_path)
    exports = {one["export"]: one for one in report.facts["exports"]}
    assert {name: (one["differences"], one["share"]) for name, one in exports.items()} == dict.fromkeys(
        exports, ([], 0.0)
    )
    assert len(exports) == 4
    assert report.failure == ""
    for one in exports.values():
        assert one["days"] == 10
        assert (one["tokens"] or one["usd"])["exported"] > 0


def test_the_simulation_has_all_that_makes_costs_hard_to_follow(simulated: Simulated) -> None:
    entries = simulated.entries
    assert len(entries) == REQUESTS
    share = REQUESTS / 10_000
    assert sum(one["outcome"] == "cancelled" for one in entries) > 300 * share
    assert sum(bool(one.get("attempts")) for one in entries) > 300 * share
    assert simulated.refused > 200 * share
    details = [one.get("token_details", {}) for one in entries]
    for kind in ("cache_write", "cache_write_1h", "reasoning", "is_estimate"):
        assert sum(bool(of.get(kind)) for of in details) > 100 * share
    assert {of.get("service_tier") for of in details} >= {"flex", "priority", None}
    assert sum(one["usage"]["prompt_tokens"] > 2000 for one in entries) > 500 * share
    assert {one["engine"] for one in entries} >= {"openai_one", "openai_two", "claude"}


# -- seeded faults


@dataclass(frozen=True)
class Fault:
    """Something that can go wrong with receipts, and the cause by which the report must name it."""

    cause: str
    seed: Callable[[list[Entry]], list[Entry]]
    export: str = "OpenAI's usage"
    """The export in which the report must find the fault."""


def parts_of(entry: Entry) -> Iterable[Entry]:
    """Yields the parts of an entry that have a usage and costs: its attempts, or the entry itself."""
    return entry.get("attempts") or [entry]


def on_each(change: Callable[[Entry], None]) -> Callable[[list[Entry]], list[Entry]]:
    def seed(entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            for part in parts_of(entry):
                change(part)
        return entries

    return seed


def lose_every_fiftieth(entries: list[Entry]) -> list[Entry]:
    return [entry for number, entry in enumerate(entries) if number % 50]


def write_some_twice(entries: list[Entry]) -> list[Entry]:
    return [*entries, *entries[::50]]


def price_completions_lower(part: Entry) -> None:
    if part["model"] == "sol":
        part["cost_parts_usd"]["completion"] *= 0.8


def count_writes_as_prompt(part: Entry) -> None:
    written = part.get("token_details", {}).pop("cache_write", 0)
    if written:
        part["cost_parts_usd"].pop("cache_write")
        part["cost_parts_usd"]["prompt"] += written * SOL["prompt"] / 1e6


def leave_out_reasoning(part: Entry) -> None:
    reasoning = part.get("token_details", {}).pop("reasoning", 0)
    part["usage"]["completion_tokens"] -= reasoning


def keep_local_time(entries: list[Entry]) -> list[Entry]:
    for entry in entries:
        entry["unix_ms"] -= 8 * 3600 * 1000
    return entries


def lose_the_tier(part: Entry) -> None:
    part.get("token_details", {}).pop("service_tier", None)


def name_the_first_engine(part: Entry) -> None:
    if part["engine"] == "openai_two":
        part["engine"] = "openai_one"


def charge_nothing_for_cut_off_answers(part: Entry) -> None:
    if part.get("token_details", {}).get("is_estimate"):
        part["usage"] = dict.fromkeys(part["usage"], 0)
        part["token_details"], part["cost_parts_usd"] = {}, {}


def keep_only_the_last_answer(entries: list[Entry]) -> list[Entry]:
    for entry in entries:
        if attempts := entry.get("attempts"):
            entry["attempts"] = attempts[-1:]
    return entries


FAULTS = {
    "lost receipts": Fault(causes.MISSING, lose_every_fiftieth),
    "receipts that stand twice": Fault(causes.SURPLUS, write_some_twice),
    "a wrong price": Fault(causes.PRICE, on_each(price_completions_lower), "OpenAI's costs"),
    "cache writes as plain prompt": Fault(causes.NOT_COUNTED, on_each(count_writes_as_prompt)),
    "reasoning left out": Fault(causes.COUNTS, on_each(leave_out_reasoning)),
    "local time": Fault(causes.DAY, keep_local_time),
    "a lost service tier": Fault(causes.TIER, on_each(lose_the_tier)),
    "failover ascribed to the first key": Fault(causes.KEY, on_each(name_the_first_engine)),
    "cut off answers for nothing": Fault(causes.MISSING, on_each(charge_nothing_for_cut_off_answers)),
    "rejected answers for nothing": Fault(causes.MISSING, keep_only_the_last_answer),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_seeded_fault_is_found_and_named(simulated: Simulated, tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    report = await reconciled(simulated, fault.seed(deepcopy(simulated.entries)), tmp_path)
    (found,) = [one for one in report.facts["exports"] if one["export"] == fault.export]
    assert found["share"] > 0
    assert report.failure
    assert found["first_cause"].startswith(fault.cause)
    others = {one["cause"].partition(":")[0] for one in found["differences"]} - {fault.cause}
    assert others == set()
