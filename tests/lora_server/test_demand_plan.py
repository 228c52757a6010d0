"""The plan of placement by demand: copies follow the use of a version, and move as little as possible."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lora_server.adapters.demand import FAST_SECONDS, DemandMeter, MoveBudget
from pointsman_lora_server.adapters.demand_plan import DEFAULT_TERMS, Move, MoveReason, Plan, next_plan
from pointsman_lora_server.domain import EngineReport, TokenRate

CAPACITY = 100.0
VERSIONS = tuple(f"adapter-{number}@{number:012x}" for number in range(12))
HOT, OTHER = VERSIONS[:2]


def report(engine: str, slots: int = 4, holds: tuple[str, ...] = (), /, **use: float) -> EngineReport:
    """Returns a report; `use` gives shares of the engine's capacity by the number of a version, as in v3=0.5."""
    rates = {VERSIONS[int(name[1:])]: TokenRate(CAPACITY * share, CAPACITY * share) for name, share in use.items()}
    return EngineReport(engine, slots, 0, CAPACITY, frozenset(holds), rates)


def holding(plan: Plan, **use: float) -> list[EngineReport]:
    """Returns reports of the engines a to d, which hold what the plan says. The use is split between the copies."""
    reports = []
    for engine in "abcd":
        holds = tuple(version for version, engines in plan.engines.items() if engine in engines)
        shares = {
            name: share / len(plan.engines[VERSIONS[int(name[1:])]])
            for name, share in use.items()
            if VERSIONS[int(name[1:])] in holds
        }
        reports.append(report(engine, 4, holds, **shares))
    return reports


plans = st.dictionaries(st.sampled_from(VERSIONS), st.lists(st.sampled_from("abcdef"), unique=True).map(tuple))
fleets = st.lists(
    st.builds(
        EngineReport,
        st.sampled_from("abcdef"),
        st.integers(0, 5),
        st.integers(0, 2),
        st.just(CAPACITY),
        st.frozensets(st.sampled_from(VERSIONS), max_size=5),
        st.dictionaries(
            st.sampled_from(VERSIONS), st.builds(TokenRate, st.floats(0, 300), st.floats(0, 300)), max_size=8
        ),
    ),
    min_size=1,
    unique_by=lambda each: each.engine,
)


@given(plans, fleets, st.sets(st.sampled_from(VERSIONS)), st.integers(0, 5), st.sets(st.sampled_from(VERSIONS)))
def test_a_plan_respects_slots_and_moves_and_is_the_same_everywhere(
    before: dict[str, tuple[str, ...]], fleet: list[EngineReport], versions: set[str], moves: int, kept: set[str]
) -> None:
    plan = next_plan(Plan(before), fleet, versions, moves, kept=kept)
    assert plan == next_plan(Plan(before), fleet[::-1], sorted(versions), moves, kept=sorted(kept))
    assert plan.engines.keys() <= versions
    lost = {v for v, engines in before.items() if engines and not set(engines) & {each.engine for each in fleet}}
    assert len([move for move in plan.moves if move.version not in lost | kept]) <= moves
    for each in fleet:
        placed = [version for version, engines in plan.engines.items() if each.engine in engines]
        assert len(placed) <= max(0, each.slots - each.reserved)
    for version, engines in plan.engines.items():
        assert set(engines) <= {each.engine for each in fleet}
        assert len(set(engines)) == len(engines)
        known = {*before.get(version, ()), *(each.engine for each in fleet if version in each.holds)}
        siblings = {engine for names in before.values() for engine in names} if version in kept else set()
        assert (
            set(engines) - known - siblings == {m.engine for m in plan.moves if m.version == version} - known - siblings
        )


def test_every_version_gets_a_copy_if_there_is_room() -> None:
    plan = Plan()
    for _ in range(3):
        plan = next_plan(plan, holding(plan), VERSIONS, 100)
        assert [move.reason for move in plan.moves] == [MoveReason.FIRST_COPY] * 4
        assert {move.engine for move in plan.moves} == set("abcd"), "one load at a time on each engine"
    assert plan.engines.keys() == set(VERSIONS)
    assert all(len(engines) == 1 for engines in plan.engines.values())
    assert all(sum(engine in engines for engines in plan.engines.values()) == 3 for engine in "abcd")


def test_an_unchanged_fleet_moves_nothing() -> None:
    plan = Plan({version: ("abcd"[number % 4],) for number, version in enumerate(VERSIONS)})
    again = next_plan(plan, holding(plan, v0=0.4, v1=0.2), VERSIONS, 100)
    assert (again.engines, again.moves) == (plan.engines, ())


@pytest.mark.parametrize(("share", "copies"), [(0.55, 1), (0.9, 2), (2.0, 3), (9.0, 4)])
def test_a_version_gets_as_many_copies_as_its_use_needs(share: float, copies: int) -> None:
    plan = next_plan(Plan({HOT: ("a",)}), holding(Plan({HOT: ("a",)}), v0=share), [HOT], 100)
    assert len(plan.engines[HOT]) == copies
    assert [move.reason for move in plan.moves] == [MoveReason.DEMAND] * (copies - 1)


def test_copies_come_and_go_with_a_distance_between_the_thresholds() -> None:
    two = Plan({HOT: ("a", "b")})
    calmer = DEFAULT_TERMS.grow_above - 0.1
    assert len(next_plan(two, holding(two, v0=calmer), [HOT], 100).engines[HOT]) == 2
    assert len(next_plan(two, holding(two, v0=DEFAULT_TERMS.shrink_below - 0.05), [HOT], 100).engines[HOT]) == 1


def test_a_peak_that_has_just_ended_leaves_the_copies() -> None:
    two = Plan({HOT: ("a", "b")})
    rates = {HOT: TokenRate(fast=0.0, slow=0.3 * CAPACITY)}
    fleet = [EngineReport(engine, 4, 0, CAPACITY, frozenset({HOT}), rates) for engine in "ab"]
    assert len(next_plan(two, fleet, [HOT], 100).engines[HOT]) == 2


def test_canaries_keep_their_copies_however_little_they_are_used() -> None:
    two = Plan({HOT: ("a", "b")})
    assert len(next_plan(two, holding(two), [HOT], 100, kept={HOT}).engines[HOT]) == 2
    full = [EngineReport("a", 2, 0, CAPACITY, frozenset({OTHER}), {OTHER: TokenRate(90.0, 90.0)})]
    assert HOT in next_plan(Plan({HOT: ("a",)}), full, VERSIONS, 100, kept={HOT}).engines


def test_a_new_version_takes_over_the_copies_and_the_use_of_the_one_before() -> None:
    old, new = "triage@000000000001", "triage@000000000002"
    before = Plan({old: ("a", "b")})
    rates = {old: TokenRate(40.0, 40.0)}
    fleet = [EngineReport(engine, 4, 0, CAPACITY, frozenset({old}), rates) for engine in "abc"]
    announced = next_plan(before, fleet, [old, new], 100, kept={new})
    assert set(announced.engines[new]) == {"a", "b"}
    promoted = next_plan(announced, fleet, [new], 100)
    assert len(promoted.engines[new]) >= 2, "its use is still that of the old version"


def test_a_copy_that_a_request_has_loaded_is_adopted_without_a_move() -> None:
    fleet = [report("a", 4, (HOT,)), report("b"), report("c")]
    plan = next_plan(Plan(), fleet, [HOT], 0)
    assert (plan.engines, plan.moves) == ({HOT: ("a",)}, ())


def test_the_copies_of_a_lost_engine_are_replaced_at_once_and_evenly() -> None:
    before = Plan({version: ("a",) if number < 3 else ("gone",) for number, version in enumerate(VERSIONS[:9])})
    fleet = [report("a", 4, VERSIONS[:3]), report("b"), report("c")]
    plan = next_plan(before, fleet, VERSIONS[:9], 0)
    assert {move.version for move in plan.moves} == set(VERSIONS[3:9])
    assert all(move.reason is MoveReason.FIRST_COPY for move in plan.moves)
    counts = [sum(engine in engines for engines in plan.engines.values()) for engine in "abc"]
    assert counts == [3, 3, 3]


def test_the_busiest_versions_move_first_if_few_may() -> None:
    one = Plan({HOT: ("a",), OTHER: ("b",)})
    (move,) = next_plan(one, holding(one, v0=0.9, v1=2.0), [HOT, OTHER], 1).moves
    assert (move.version, move.reason) == (OTHER, MoveReason.DEMAND)


def test_a_version_that_is_used_far_more_takes_the_slot_of_another() -> None:
    cold, hot = VERSIONS[2], HOT
    full = [report("a", 2, (cold, hot), v2=0.05, v0=0.3)]
    assert next_plan(Plan({cold: ("a",)}), full, VERSIONS, 9).engines == {hot: ("a",)}
    similar = [report("a", 2, (cold, hot), v2=0.25, v0=0.3)]
    assert next_plan(Plan({cold: ("a",)}), similar, VERSIONS, 9).engines == {cold: ("a",)}


def test_an_engine_with_far_more_load_than_others_shares_it() -> None:
    heavy = dict.fromkeys(VERSIONS[:3], ("a",))
    plan = next_plan(Plan(heavy), holding(Plan(heavy), v0=0.6, v1=0.4, v2=0.3), VERSIONS[:3], 9)
    assert plan.moves[0].reason is MoveReason.BALANCE
    assert plan.moves[0] == Move(HOT, plan.moves[0].engine, MoveReason.BALANCE)


def test_rates_are_moving_averages_and_survive_a_counter_that_begins_anew() -> None:
    meter = DemandMeter()
    for second in range(0, 200, 5):
        meter.record({HOT: 10.0 * second, "": 0.0}, float(second))
    assert meter.rates[HOT].fast == pytest.approx(10.0, rel=0.01)
    assert meter.rates[HOT].slow == pytest.approx(10.0 * (1 - math.exp(-195 / 120)), rel=0.01)
    assert meter.peak == pytest.approx(10.0, rel=0.01)
    before = meter.rates[HOT].fast
    meter.record({HOT: 50.0}, 200.0)
    assert meter.rates[HOT].fast == pytest.approx(before, rel=0.01), "50 tokens since it was loaded again"
    meter.record({}, 200.0 + 10 * FAST_SECONDS)
    assert meter.rates[HOT].fast < 0.01 < meter.rates[HOT].slow


def test_moves_that_were_not_made_add_up_to_those_of_a_minute() -> None:
    budget = MoveBudget(6.0)
    assert budget.left(0.0) == 6
    budget.spend(6)
    assert [budget.left(at) for at in (5.0, 10.0, 20.0)] == [0, 1, 2]
    budget.spend(2)
    assert budget.left(600.0) == 6


def test_less_than_one_move_per_minute_is_made_in_the_end() -> None:
    budget = MoveBudget(0.5)
    assert [budget.left(at) for at in (0.0, 60.0, 120.0, 600.0)] == [0, 1, 1, 1]


def test_urgent_moves_do_not_use_up_the_moves_of_later_minutes() -> None:
    budget = MoveBudget(6.0)
    assert budget.left(0.0) == 6
    budget.spend(200)  # the versions of an engine that is gone
    assert budget.left(60.0) == 6
