"""An export and the receipts of the same calls agree; for each way in which they can differ, the report names the right
cause first."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lab.reconcile import causes
from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.comparison import Comparison, compare
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.lines import KINDS, REQUESTS, SECONDS_PER_DAY, Export, Line
from pointsman_lab.reconcile.join import Names, folded, plain_model

FIRST = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
NOW = FIRST + 90 * SECONDS_PER_DAY
PRICES = {
    "prompt": 2_000_000,
    "cached": 500_000,
    "cache_write": 2_500_000,
    "completion": 8_000_000,
    "reasoning": 8_000_000,
}
"""Picodollars (1e-12 dollars) per token, by kind of token."""
NAMES = Names(
    upstreams={"a": "gpt-9", "b": "gpt-9", "c": "gpt-9-mini"}, keys={"key_a": "a", "key_b": "b", "key_c": "c"},
    known=frozenset({"gpt-9", "gpt-9-mini"}),
)  # fmt: skip
KEYS = {"a": "key_a", "b": "key_b", "c": "key_c"}
SNAPSHOTS = {"a": "gpt-9-2026-08-06", "b": "gpt-9-2026-08-06", "c": "gpt-9-mini"}


def calls(number: int = 300, days: int = 5) -> list[Charge]:
    """Returns the charges of random calls of three engines, as receipts state them."""
    draw, found = random.Random(5), []
    last = FIRST + days * SECONDS_PER_DAY - 1
    for _ in range(number):
        began = FIRST + draw.random() * days * SECONDS_PER_DAY * 0.9999
        used = [kind for kind in PRICES if kind in ("prompt", "completion") or draw.random() < 0.7]
        counts = {kind: draw.randrange(1, 500) for kind in used}
        engine, tier = draw.choice("aabc"), draw.choice(["", "", "flex"])
        found.append(Charge(began, min(began + 2, last), engine, "m", tier, counts, priced(counts)))
    return found


def priced(counts: dict[str, int]) -> dict[str, int]:
    return {kind: tokens * PRICES[kind] for kind, tokens in counts.items()}


def without(one: Charge, kind: str) -> Charge:
    return replace(one, counts={name: tokens for name, tokens in one.counts.items() if name != kind})


@dataclass
class Ledger:
    """Writes an export of calls, independently of the code under test."""

    kinds: Sequence[str] = ("prompt", "cached", "cache_write", "completion")
    """The kinds of tokens that are listed; reasoning tokens are part of the completion."""
    has_counts: bool = True
    has_dollars: bool = True
    has_requests: bool = True
    by_tier: bool = True
    by_key: bool = True
    boundary: float = 0.0
    """Seconds after midnight (UTC) at which the export's days begin."""
    time_of: Callable[[Charge], float] = lambda call: call.ended

    def export(self, made: Iterable[Charge]) -> Export:
        sums: dict[tuple[float, str, str | None, str | None, str], list[int]] = defaultdict(lambda: [0, 0])
        for call in made:
            day = (self.time_of(call) - self.boundary) // SECONDS_PER_DAY * SECONDS_PER_DAY
            key = (KEYS[call.engine] if self.by_key else None, call.tier if self.by_tier else None)
            for kind, tokens in call.counts.items():
                named = kind if kind in self.kinds else "completion"
                entry = sums[(day, SNAPSHOTS[call.engine], *key, named)]
                entry[0] += tokens
                entry[1] += call.picodollars.get(kind, 0)
            if self.has_requests:
                sums[(day, SNAPSHOTS[call.engine], *key, REQUESTS)][0] += 1
        lines = [
            Line(
                day, day + SECONDS_PER_DAY, model, kind, Fraction(tokens) if self.has_counts else None,
                Fraction(usd) if self.has_dollars and kind != REQUESTS else None, key, tier,
            )
            for (day, model, key, tier, kind), (tokens, usd) in sums.items()
        ]  # fmt: skip
        return Export("a double's export", ("openai",), lines, self.kinds)


def compared(export: Export, receipts: Sequence[Charge], names: Names = NAMES, tolerance: float = 0.0) -> Comparison:
    return compare(export, receipts, Days(export, NOW), names, Fraction(tolerance))


def found_causes(comparison: Comparison) -> set[str]:
    return {difference.cause.partition(":")[0] for difference in comparison.differences}


def changed(
    made: Sequence[Charge], choose: Callable[[Charge], bool], change: Callable[[Charge], Charge]
) -> list[Charge]:
    return [change(one) if choose(one) else one for one in made]


LEDGERS = {
    "all": Ledger(), "tokens": Ledger(has_dollars=False), "dollars": Ledger(has_counts=False, has_requests=False),
    "no requests": Ledger(has_requests=False), "one key": Ledger(by_key=False), "one tier": Ledger(by_tier=False),
}  # fmt: skip


@pytest.mark.parametrize("ledger", LEDGERS.values(), ids=LEDGERS)
def test_an_export_of_the_same_calls_does_not_differ(ledger: Ledger) -> None:
    made = calls()
    names = NAMES if ledger.by_key else replace(NAMES, keys={})
    comparison = compared(ledger.export(made), made, names)
    assert comparison.differences == []
    assert comparison.share == 0
    assert comparison.days == 5


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4 * SECONDS_PER_DAY - 1),
            st.sampled_from("abc"),
            st.sampled_from(["", "flex"]),
            st.dictionaries(st.sampled_from(sorted(PRICES)), st.integers(1, 10**6), min_size=1),
        ),
        min_size=1,
    )
)
def test_any_calls_agree_with_their_own_export(made: list[tuple[int, str, str, dict[str, int]]]) -> None:
    charges = [
        Charge(FIRST + at, FIRST + at, engine, "m", tier, counts, priced(counts)) for at, engine, tier, counts in made
    ]
    comparison = compared(Ledger().export(charges), charges)
    assert comparison.differences == []
    assert comparison.tokens is not None
    assert comparison.tokens.exported == sum(sum(one.counts.values()) for one in charges)


# -- each cause


@pytest.mark.parametrize("ledger", [LEDGERS["all"], LEDGERS["no requests"]], ids=["with", "without"])
def test_lost_receipts_are_missing_requests(ledger: Ledger) -> None:
    made = calls()
    comparison = compared(ledger.export(made), [one for at, one in enumerate(made) if at % 7])
    assert found_causes(comparison) <= {causes.MISSING, causes.COUNTS}
    assert comparison.first_cause.startswith(causes.MISSING)
    assert comparison.share > Fraction(1, 20)


def test_missing_requests_are_counted_if_the_export_has_their_number() -> None:
    made = calls()
    (first, *others) = sorted(made, key=lambda one: one.ended)
    comparison = compared(Ledger().export(made), others)
    assert found_causes(comparison) == {causes.MISSING}
    assert comparison.first_cause.startswith("missing requests: 1 of")
    assert {one.group.key for one in comparison.differences} == {first.engine}


def test_receipts_that_stand_twice_are_surplus_requests() -> None:
    made = calls()
    assert found_causes(compared(Ledger().export(made), [*made, *made[:40]])) == {causes.SURPLUS}


@pytest.mark.parametrize("ledger", [LEDGERS["all"], LEDGERS["dollars"]], ids=["with tokens", "without"])
def test_another_price_is_named_with_both_prices(ledger: Ledger) -> None:
    made = calls()
    cheaper = [
        replace(one, picodollars={**one.picodollars, "completion": one.counts["completion"] * 6_000_000})
        for one in made
    ]
    comparison = compared(replace(ledger, kinds=[*ledger.kinds, "reasoning"]).export(made), cheaper)
    assert found_causes(comparison) == {causes.PRICE}
    assert comparison.first_cause == "another price: $8 instead of $6 per million"
    assert {one.kind for one in comparison.differences} == {"completion"}


def test_a_receipt_without_a_price_is_named() -> None:
    made = calls()
    unknown = changed(made, lambda one: one.engine == "c", lambda one: replace(one, picodollars={}, is_priced=False))
    comparison = compared(Ledger().export(made), unknown)
    assert found_causes(comparison) == {causes.NO_PRICE}


def as_prompt(one: Charge) -> Charge:
    counts = {kind: tokens for kind, tokens in one.counts.items() if kind != "cache_write"}
    counts["prompt"] += one.counts.get("cache_write", 0)
    return replace(one, counts=counts, picodollars=priced(counts))


def test_a_kind_that_was_counted_as_another_is_named() -> None:
    made = calls()
    comparison = compared(Ledger().export(made), [*map(as_prompt, made)])
    assert found_causes(comparison) == {causes.NOT_COUNTED}
    assert comparison.first_cause == "a kind that was not counted: cache_write, but as prompt"
    left_out = compared(
        Ledger(has_requests=False, has_dollars=False).export(made), [without(one, "cache_write") for one in made]
    )
    assert {one.cause for one in left_out.differences} == {"a kind that was not counted: cache_write"}


def test_fewer_tokens_of_the_same_requests_are_other_counts() -> None:
    made = calls()
    without_reasoning = [without(one, "reasoning") for one in made]
    comparison = compared(Ledger(has_dollars=False).export(made), without_reasoning)
    assert found_causes(comparison) == {causes.COUNTS}
    assert comparison.first_cause == "other token counts: fewer in the receipts, for the same requests"


def test_estimates_explain_differences_up_to_their_size() -> None:
    made = calls()
    cut_off = [
        replace(one, is_estimate=True, counts={**one.counts, "completion": max(1, one.counts["completion"] - 2)})
        for one in made
    ]
    comparison = compared(Ledger(has_dollars=False).export(made), cut_off)
    assert found_causes(comparison) == {causes.ESTIMATES}
    assert comparison.tokens is not None
    assert comparison.tokens.estimated == comparison.tokens.received


def test_prompts_of_hedged_requests_are_named() -> None:
    made = calls()
    twice = [*made, *(replace(one, counts={"prompt": one.counts["prompt"]}) for one in made[:3])]
    receipts = changed(made, lambda one: one in made[:3], lambda one: replace(one, is_hedged=True))
    assert found_causes(compared(Ledger(has_dollars=False).export(twice), receipts)) == {causes.HEDGED}


@pytest.mark.parametrize("hours", [-8, 5.5, 1])
def test_another_boundary_of_days_is_named_with_its_time(hours: float) -> None:
    made = calls(2000)
    ledger = Ledger(boundary=hours * 3600)
    comparison = compared(midnight(ledger.export(made)), made)
    assert found_causes(comparison) == {causes.DAY}
    begins = hours % 24
    assert f"begin at {int(begins):02}:{int(begins % 1 * 60):02} UTC" in comparison.first_cause


def midnight(export: Export) -> Export:
    """Returns the export of a provider whose days begin at another time, although their dates look like days of UTC."""
    lines = [
        replace(
            line,
            begin=line.begin // SECONDS_PER_DAY * SECONDS_PER_DAY,
            end=line.begin // SECONDS_PER_DAY * SECONDS_PER_DAY + SECONDS_PER_DAY,
        )
        for line in export.lines
    ]
    return replace(export, lines=lines)


def test_an_export_with_days_of_another_zone_agrees_if_it_says_so() -> None:
    made = calls(2000)
    shifted = Ledger(boundary=-8 * 3600).export(made)
    lines = [replace(line, begin=line.begin - 8 * 3600, end=line.end - 8 * 3600) for line in shifted.lines]
    assert compared(replace(shifted, lines=lines), made).differences == []


def test_requests_over_midnight_are_on_the_day_on_which_they_began() -> None:
    made = [replace(one, began=one.ended - 4000) for one in calls(1000)]
    comparison = compared(Ledger(time_of=lambda call: call.began).export(made), made)
    assert found_causes(comparison) == {causes.DAY}
    assert "on which they began" in comparison.first_cause


def test_a_lost_service_tier_is_named() -> None:
    made = calls()
    comparison = compared(Ledger(has_dollars=False).export(made), [replace(one, tier="") for one in made])
    assert found_causes(comparison) == {causes.TIER}
    assert comparison.first_cause == "another service tier: the standard one in the receipts is flex in the export"


def test_receipts_of_another_key_or_model_are_named() -> None:
    made = calls()
    moved = changed(made, lambda one: one.engine == "b", lambda one: replace(one, engine="a"))
    comparison = compared(Ledger().export(made), moved)
    assert found_causes(comparison) == {causes.KEY}
    assert comparison.first_cause == "another key: a in the receipts is b in the export"
    moved = changed(made, lambda one: one.engine == "c", lambda one: replace(one, engine="a"))
    comparison = compared(Ledger(by_key=False).export(made), moved, replace(NAMES, keys={}))
    assert found_causes(comparison) == {causes.MODEL}
    assert comparison.first_cause == "another model: gpt-9 in the receipts is gpt-9-mini in the export"


def test_a_model_that_one_side_does_not_have_is_named() -> None:
    made = calls()
    others = [one for one in made if one.engine != "c"]
    missing = compared(Ledger(by_key=False).export(made), others, replace(NAMES, keys={}))
    assert {one.cause for one in missing.differences} == {
        "missing requests: there are no receipts of this model on this day"
    }
    surplus = compared(Ledger(by_key=False).export(others), made, replace(NAMES, keys={}))
    assert {one.cause for one in surplus.differences} == {
        "surplus requests: the export does not have this model on this day"
    }


@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_dollars_alone_tell_lost_requests_from_prices(fault: str) -> None:
    made = calls(400)
    receipts = made[:250] if fault == "lost" else [*made, *made[:100]]
    comparison = compared(Ledger(has_counts=False, has_requests=False).export(made), receipts)
    expected = causes.MISSING if fault == "lost" else causes.SURPLUS
    assert comparison.first_cause.startswith(expected)


def test_a_tolerance_ignores_small_differences_when_a_cause_is_looked_for() -> None:
    made = calls()
    (first, *others) = made
    other = replace(first, counts={**first.counts, "prompt": first.counts["prompt"] + 1})
    dearer = [
        replace(one, picodollars={kind: usd * 2 for kind, usd in one.picodollars.items()}) for one in [other, *others]
    ]
    comparison = compared(Ledger().export(made), dearer, tolerance=0.01)
    in_dollars = [one for one in comparison.differences if one.in_dollars]
    assert {one.cause.partition(":")[0] for one in in_dollars} == {causes.PRICE}


# -- names, days and kinds


def test_names_of_models_and_keys_are_translated_or_left_out() -> None:
    names = replace(NAMES, models={"gpt 9 (ours)": "m1", "another": ""}, upstreams_by_model={"m1": "gpt-9"})
    assert names.model_of_line("gpt 9 (ours)") == "gpt-9"
    assert names.model_of_line("another") is None
    assert names.model_of_line("gpt-9-2026-08-06") == "gpt-9"
    assert names.model_of_line("gpt-10") == "gpt-10"
    assert replace(NAMES, keys={"key_x": ""}).key_of_line("key_x") is None
    assert NAMES.key_of_line("key_y") == ""
    assert plain_model("GPT 4o 0806") == plain_model("gpt-4o-2024-08-06") == "gpt-4o"
    assert plain_model("openai.gpt-oss-120b-1:0") == "openai.gpt-oss-120b"


def test_a_key_that_belongs_to_something_else_is_left_out() -> None:
    made = calls()
    names = replace(NAMES, keys={"key_a": "a", "key_b": "", "key_c": "c"})
    receipts = [one for one in made if one.engine != "b"]
    assert compared(Ledger().export(made), receipts, names).differences == []


def test_days_that_are_not_over_are_left_out() -> None:
    made = calls()
    export = Ledger().export(made)
    days = Days(export, FIRST + 3.5 * SECONDS_PER_DAY)
    assert days.unfinished == [FIRST + 3 * SECONDS_PER_DAY, FIRST + 4 * SECONDS_PER_DAY]
    comparison = compare(export, made, days, NAMES)
    assert (comparison.days, comparison.differences) == (3, [])


def test_days_before_the_log_begins_are_left_out() -> None:
    made = calls()
    export = Ledger().export(made)
    days = Days(export, NOW)
    begins = FIRST + 1.5 * SECONDS_PER_DAY
    assert days.since(begins) == [FIRST, FIRST + SECONDS_PER_DAY]
    comparison = compare(export, [one for one in made if one.ended >= begins], days, NAMES)
    assert (comparison.days, comparison.differences) == (3, [])


def test_parts_of_a_day_are_compared_as_far_as_the_export_has_them() -> None:
    hour = 3600.0
    lines = [Line(FIRST + at * hour, FIRST + (at + 1) * hour, "gpt-9", "prompt", Fraction(10)) for at in (5, 6)]
    export = Export(
        "e", ("openai",), lines, ("prompt", "completion"), covered=[(line.begin, line.end) for line in lines]
    )
    times = [FIRST + 4.9 * hour, FIRST + 5.5 * hour, FIRST + 6.5 * hour, FIRST + 7.1 * hour]
    receipts = [Charge(at, at, "a", "m", "", {"prompt": 10}, {}) for at in times]
    assert compared(export, receipts, replace(NAMES, keys={})).differences == []


def test_a_day_without_usage_has_no_rows_but_is_a_day() -> None:
    lines = [Line(FIRST + at * 86400, FIRST + (at + 1) * 86400, "gpt-9", "prompt", Fraction(10)) for at in (0, 3)]
    export = Export("e", ("openai",), lines, ("prompt", "completion"))
    receipts = [
        Charge(FIRST + at * 86400, FIRST + at * 86400 + 5, "a", "m", "", {"prompt": 10}, {}) for at in (0, 2, 3)
    ]
    comparison = compared(export, receipts, replace(NAMES, keys={}))
    assert comparison.days == 4
    assert [one.group.day for one in comparison.differences] == [FIRST + 2 * 86400]


def test_kinds_that_an_export_does_not_tell_apart_are_folded() -> None:
    assert folded("cache_write_1h", ("prompt", "completion")) == "prompt"
    assert folded("cache_write_1h", ("prompt", "cache_write")) == "cache_write"
    assert folded("reasoning", ("prompt", "completion")) == "completion"
    assert {folded(kind, KINDS) for kind in KINDS} == {*KINDS}
