"""Placement of versions on engines: every lora-server computes the same, and a change of engines moves few versions."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lora_server.adapters import placement
from pointsman_lora_server.adapters.placement import PlacementPlanner, engines_for
from pointsman_lora_server.domain import Alias, DesiredState, FleetState, Placement, StoredPlan
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.clocks import Clock

VERSION = "triage@3f9a1c0b77de"
DESIRED = DesiredState(aliases=(Alias("triage@prod", VERSION, 1),), placements={"triage": Placement(1)})

engines = st.sets(st.text("abcdefgh0123456789.:", min_size=1, max_size=12), max_size=12)
versions = st.from_regex(r"[a-z]{1,6}@[0-9a-f]{12}", fullmatch=True)
copies = st.integers(0, 15)


@given(versions, copies, engines)
def test_the_number_of_copies_is_limited_by_the_engines(version: str, copies: int, engines: set[str]) -> None:
    found = engines_for(version, Placement(copies), engines)
    assert found <= engines
    assert len(found) == min(copies, len(engines))
    assert engines_for(version, Placement(), engines) == engines


@given(versions, copies, engines, st.data())
def test_a_removed_engine_moves_only_its_own_versions(
    version: str, copies: int, engines: set[str], data: st.DataObject
) -> None:
    before = engines_for(version, Placement(copies), engines)
    for gone in engines:
        after = engines_for(version, Placement(copies), engines - {gone})
        assert before - {gone} <= after
        if gone not in before:
            assert after == before


@given(versions, copies, engines, st.text("xyz", min_size=1))
def test_an_added_engine_takes_at_most_one_copy_per_version(
    version: str, copies: int, engines: set[str], comes: str
) -> None:
    before = engines_for(version, Placement(copies), engines)
    after = engines_for(version, Placement(copies), engines | {comes})
    assert after - before <= {comes}
    assert len(before - after) <= 1


@given(versions, copies, st.lists(st.sampled_from("abcdef"), unique=True))
def test_the_order_of_engines_does_not_matter(version: str, copies: int, engines: list[str]) -> None:
    assert engines_for(version, Placement(copies), engines) == engines_for(version, Placement(copies), engines[::-1])


def test_copies_are_spread_over_the_engines() -> None:
    counts = dict.fromkeys("abcde", 0)
    for number in range(1000):
        for engine in engines_for(f"adapter-{number}@000000000000", Placement(2), counts):
            counts[engine] += 1
    assert all(330 < count < 470 for count in counts.values()), counts


class Registry:
    def __init__(self, **holds: set[str]) -> None:
        self.holds: Mapping[str, set[str]] = holds
        self.away = False
        self.plan = StoredPlan()
        self.announced: list[str] = []

    async def read_fleet(self) -> FleetState:
        if self.away:
            raise Unavailable("Redis does not answer", code="redis_unavailable")
        return FleetState({engine: frozenset(held) for engine, held in self.holds.items()})

    async def read_plan(self, known: StoredPlan) -> StoredPlan:
        return self.plan

    async def announce_target(self, version: str, seconds: float) -> None:
        self.announced.append(version)


def ranked(*engines: str) -> list[str]:
    """Returns the engines in the order in which the version is placed on them."""
    return sorted(
        engines, key=lambda engine: sum(engine in engines_for(VERSION, Placement(n), engines) for n in (1, 2, 3))
    )[::-1]


A, B, C = ranked("a", "b", "c")


async def test_a_copy_is_released_after_its_new_engine_has_loaded_it() -> None:
    registry = Registry(**{A: set(), B: {VERSION}})
    old = PlacementPlanner(registry, B)
    await old.refresh()
    assert old.placed_here(DESIRED) == frozenset()
    assert old.releasable(DESIRED, frozenset({VERSION})) == frozenset()
    registry.holds = {A: {VERSION}, B: {VERSION}}
    await old.refresh()
    assert old.releasable(DESIRED, frozenset({VERSION})) == {VERSION}


@pytest.mark.parametrize("placement", [Placement(), Placement(0)])
async def test_versions_without_a_placement_are_never_released(placement: Placement) -> None:
    desired = DesiredState(aliases=DESIRED.aliases, placements={"triage": placement})
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B)
    await ours.refresh()
    assert ours.releasable(desired, frozenset({VERSION})) == frozenset()
    assert ours.placed_here(desired) == (frozenset() if placement.copies == 0 else {VERSION})


async def test_pinned_versions_and_those_without_alias_are_not_released() -> None:
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B)
    await ours.refresh()
    pinned = DesiredState(aliases=DESIRED.aliases, pins=frozenset({VERSION}), placements=DESIRED.placements)
    idle = DesiredState(placements=DESIRED.placements)
    assert ours.releasable(pinned, frozenset({VERSION})) == ours.releasable(idle, frozenset({VERSION})) == frozenset()


async def test_a_version_loaded_on_demand_stays_for_a_while() -> None:
    clock = Clock()
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B, clock)
    await ours.refresh()
    ours.record_request(VERSION)
    assert ours.releasable(DESIRED, frozenset({VERSION})) == frozenset()
    clock.passes(placement.KEEP_REQUESTED_SECONDS)
    assert ours.releasable(DESIRED, frozenset({VERSION})) == {VERSION}


async def test_without_redis_placements_do_not_change() -> None:
    registry = Registry(**{A: {VERSION}, B: set()})
    ours = PlacementPlanner(registry, B)
    await ours.refresh()
    registry.away = True
    await ours.refresh()
    assert ours.placed_here(DESIRED) == frozenset()


async def test_a_version_about_to_be_promoted_is_placed_like_a_promoted_one() -> None:
    ours, now = PlacementPlanner(Registry(), A), time.time() * 1000
    coming = DesiredState(upcoming={VERSION: int(now + 60_000)})
    over = DesiredState(upcoming={VERSION: int(now - 1)})
    assert (ours.placed_here(coming), ours.placed_here(over)) == ({VERSION}, frozenset())


async def test_a_version_is_warm_if_all_its_placed_engines_hold_it() -> None:
    two = DesiredState(placements={"triage": Placement(2)})
    registry = Registry(**{A: {VERSION}, B: {VERSION}, C: set()})
    await PlacementPlanner(registry, C).wait_until_warm(VERSION, lambda: two)
    assert registry.announced == [VERSION]


async def test_engines_that_do_not_load_in_time_are_named() -> None:
    clock = Clock()

    class Slow(Registry):
        async def read_fleet(self) -> FleetState:
            clock.passes(placement.MAX_WARM_SECONDS + 1)
            return await super().read_fleet()

    with pytest.raises(Unavailable, match=f"{VERSION} is not warm on {B} after 60 s") as raised:
        await PlacementPlanner(Slow(**{A: {VERSION}, B: set(), C: {VERSION}}), A, clock).wait_until_warm(
            VERSION, lambda: DesiredState(placements={"triage": Placement(2)})
        )
    assert raised.value.code == "not_warm"


async def test_a_leaving_server_waits_until_others_hold_its_versions() -> None:
    class Moving(Registry):
        async def read_fleet(self) -> FleetState:
            self.holds = {**self.holds, B: {VERSION}}
            return await super().read_fleet()

    registry = Moving(**{A: {VERSION}, B: set()})
    leaving = PlacementPlanner(registry, A)
    leaving.leaving = True
    async with asyncio.timeout(5):
        await leaving.wait_until_handed_over(lambda: DESIRED, frozenset({VERSION}))
    assert registry.holds[B] == {VERSION}
    assert leaving.placed_here(DESIRED) == frozenset()


async def test_the_last_server_leaves_without_waiting() -> None:
    leaving = PlacementPlanner(Registry(), A)
    leaving.leaving = True
    async with asyncio.timeout(5):
        await leaving.wait_until_handed_over(lambda: DESIRED, frozenset({VERSION}))


BY_DEMAND = DesiredState(aliases=DESIRED.aliases, placements={"triage": Placement(by_demand=True)})


async def placed_by(plan: dict[str, tuple[str, ...]], version: str = VERSION, announced: bool = False) -> set[str]:
    """Returns the engines that place the version on themselves, of those that are up (A, B and C)."""
    registry, placed = Registry(**{A: set(), B: set(), C: set()}), set()
    registry.plan = StoredPlan("1", plan)
    upcoming = {version: int((time.time() + 60) * 1000)} if announced else {}
    desired = replace(BY_DEMAND, aliases=(Alias("triage@prod", version, 1),), upcoming=upcoming)
    for engine in (A, B, C):
        planner = PlacementPlanner(registry, engine)
        await planner.refresh()
        if version in planner.placed_here(desired):
            placed.add(engine)
    return placed


async def test_versions_by_demand_are_placed_where_the_plan_says() -> None:
    assert await placed_by({VERSION: (B, C)}) == {B, C}
    assert await placed_by({VERSION: (C, "gone")}) == {C}


async def test_a_version_whose_planned_engines_are_gone_is_placed_once() -> None:
    assert await placed_by({VERSION: ("gone",)}) == {A}


async def test_a_version_without_room_is_placed_nowhere() -> None:
    assert await placed_by({VERSION: ()}) == await placed_by({}) == set()


async def test_an_announced_version_begins_where_the_adapters_other_versions_are() -> None:
    assert await placed_by({VERSION: (B, C)}, "triage@000000000001", announced=True) == {B, C}
    assert await placed_by({}, announced=True) == {A}


async def test_a_copy_too_many_by_demand_stays_until_its_slot_is_needed() -> None:
    registry = Registry(**{A: {VERSION}, B: {VERSION}})
    registry.plan = StoredPlan("1", {VERSION: (A,)})
    ours = PlacementPlanner(registry, B)
    await ours.refresh()
    assert ours.placed_here(BY_DEMAND) == frozenset()  # so it is evicted first
    assert ours.releasable(BY_DEMAND, frozenset({VERSION})) == frozenset()


async def test_a_version_is_not_warm_before_this_server_has_read_its_announcement() -> None:
    new, clock = "triage@000000000001", Clock()

    class Slow(Registry):
        async def read_fleet(self) -> FleetState:
            clock.passes(placement.MAX_WARM_SECONDS + 1)
            return await super().read_fleet()

    registry = Slow(**{A: {new}, B: set()})
    registry.plan = StoredPlan("1", {VERSION: (B,)})
    planner = PlacementPlanner(registry, A, clock)
    with pytest.raises(Unavailable, match=f"{new} is not warm on {B}"):
        await planner.wait_until_warm(new, lambda: BY_DEMAND)  # in which nothing is announced yet


async def test_after_redis_was_away_an_engine_places_only_its_own_share_on_itself() -> None:
    registry, clock = Registry(**{A: set(), B: {VERSION}}), Clock()
    registry.plan = StoredPlan("1", {VERSION: (B,)})
    ours = PlacementPlanner(registry, A, clock)
    await ours.refresh()
    registry.away = True
    await ours.refresh()
    registry.away, registry.holds = False, {}  # all reports have expired
    await ours.refresh()
    assert ours.placed_here(BY_DEMAND) == ours.placed_here(DESIRED) - {VERSION} == frozenset()
    clock.passes(placement.REPORT_AGAIN_SECONDS)
    await ours.refresh()
    assert ours.placed_here(BY_DEMAND) == {VERSION}
