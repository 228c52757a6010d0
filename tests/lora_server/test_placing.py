"""Placement of versions on engines: every lora-server computes the same, and a change of engines moves few versions."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_lora_server.adapters import placement
from pointsman_lora_server.adapters.placement import PlacementPlanner, engines_for
from pointsman_lora_server.domain import Alias, DesiredState, FleetState, Placement
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.clocks import Clock

VERSION = "triage@3f9a1c0b77de"
DESIRED = DesiredState(aliases=(Alias("triage@prod", VERSION, 1),), placements={"triage": Placement(1)})

engines = st.sets(st.text("abcdefgh0123456789.:", min_size=1, max_size=12), max_size=12)
versions = st.from_regex(r"[a-z]{1,6}@[0-9a-f]{12}", fullmatch=True)
copies = st.integers(0, 15)


@given(versions, copies, engines)
def test_there_are_as_many_copies_as_are_wanted_or_as_many_as_engines(
    version: str, copies: int, engines: set[str]
) -> None:
    found = engines_for(version, Placement(copies), engines)
    assert found <= engines
    assert len(found) == min(copies, len(engines))
    assert engines_for(version, Placement(), engines) == engines


@given(versions, copies, engines, st.data())
def test_an_engine_that_goes_moves_its_own_and_no_other(
    version: str, copies: int, engines: set[str], data: st.DataObject
) -> None:
    before = engines_for(version, Placement(copies), engines)
    for gone in engines:
        after = engines_for(version, Placement(copies), engines - {gone})
        assert before - {gone} <= after
        if gone not in before:
            assert after == before


@given(versions, copies, engines, st.text("xyz", min_size=1))
def test_an_engine_that_comes_takes_a_copy_from_one_other_at_most(
    version: str, copies: int, engines: set[str], comes: str
) -> None:
    before = engines_for(version, Placement(copies), engines)
    after = engines_for(version, Placement(copies), engines | {comes})
    assert after - before <= {comes}
    assert len(before - after) <= 1


@given(versions, copies, st.lists(st.sampled_from("abcdef"), unique=True))
def test_the_order_in_which_engines_are_heard_of_does_not_matter(version: str, copies: int, engines: list[str]) -> None:
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
        self.announced: list[str] = []

    async def read_fleet(self) -> FleetState:
        if self.away:
            raise Unavailable("Redis does not answer", code="redis_unavailable")
        return FleetState({engine: frozenset(held) for engine, held in self.holds.items()})

    async def announce_target(self, version: str, seconds: float) -> None:
        self.announced.append(version)


def ranked(*engines: str) -> list[str]:
    """Returns the engines in the order in which the version is placed on them."""
    return sorted(
        engines, key=lambda engine: sum(engine in engines_for(VERSION, Placement(n), engines) for n in (1, 2, 3))
    )[::-1]


A, B, C = ranked("a", "b", "c")


async def test_a_copy_is_let_go_only_where_it_is_warm_in_its_new_place() -> None:
    registry = Registry(**{A: set(), B: {VERSION}})
    old = PlacementPlanner(registry, B)
    await old.refresh()
    assert old.placed_here(DESIRED) == frozenset()
    assert old.releasable(DESIRED, frozenset({VERSION})) == frozenset()
    registry.holds = {A: {VERSION}, B: {VERSION}}
    await old.refresh()
    assert old.releasable(DESIRED, frozenset({VERSION})) == {VERSION}


@pytest.mark.parametrize("placement", [Placement(), Placement(0)])
async def test_what_has_no_number_of_copies_is_never_let_go(placement: Placement) -> None:
    desired = DesiredState(aliases=DESIRED.aliases, placements={"triage": placement})
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B)
    await ours.refresh()
    assert ours.releasable(desired, frozenset({VERSION})) == frozenset()
    assert ours.placed_here(desired) == (frozenset() if placement.copies == 0 else {VERSION})


async def test_what_is_pinned_or_no_alias_points_to_is_not_let_go() -> None:
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B)
    await ours.refresh()
    pinned = DesiredState(aliases=DESIRED.aliases, pins=frozenset({VERSION}), placements=DESIRED.placements)
    idle = DesiredState(placements=DESIRED.placements)
    assert ours.releasable(pinned, frozenset({VERSION})) == ours.releasable(idle, frozenset({VERSION})) == frozenset()


async def test_what_somebody_had_loaded_here_stays_for_a_while() -> None:
    clock = Clock()
    ours = PlacementPlanner(Registry(**{A: {VERSION}, B: {VERSION}}), B, clock)
    await ours.refresh()
    ours.record_request(VERSION)
    assert ours.releasable(DESIRED, frozenset({VERSION})) == frozenset()
    clock.passes(placement.KEEP_REQUESTED_SECONDS)
    assert ours.releasable(DESIRED, frozenset({VERSION})) == {VERSION}


async def test_while_redis_is_away_all_stays_placed_as_it_was() -> None:
    registry = Registry(**{A: {VERSION}, B: set()})
    ours = PlacementPlanner(registry, B)
    await ours.refresh()
    registry.away = True
    await ours.refresh()
    assert ours.placed_here(DESIRED) == frozenset()


async def test_a_version_that_an_alias_soon_points_to_is_placed_like_one_that_it_points_to() -> None:
    ours, now = PlacementPlanner(Registry(), A), time.time() * 1000
    coming = DesiredState(upcoming={VERSION: int(now + 60_000)})
    over = DesiredState(upcoming={VERSION: int(now - 1)})
    assert (ours.placed_here(coming), ours.placed_here(over)) == ({VERSION}, frozenset())


async def test_warm_is_what_all_engines_hold_on_which_it_is_placed_and_no_other() -> None:
    two = DesiredState(placements={"triage": Placement(2)})
    registry = Registry(**{A: {VERSION}, B: {VERSION}, C: set()})
    await PlacementPlanner(registry, C).wait_until_warm(VERSION, lambda: two)
    assert registry.announced == [VERSION]


async def test_who_is_not_warm_in_time_is_named() -> None:
    clock = Clock()

    class Slow(Registry):
        async def read_fleet(self) -> FleetState:
            clock.passes(placement.MAX_WARM_SECONDS + 1)
            return await super().read_fleet()

    with pytest.raises(Unavailable, match=f"{VERSION} is not warm on {B} after 60 s") as told:
        await PlacementPlanner(Slow(**{A: {VERSION}, B: set(), C: {VERSION}}), A, clock).wait_until_warm(
            VERSION, lambda: DesiredState(placements={"triage": Placement(2)})
        )
    assert told.value.code == "not_warm"


async def test_who_leaves_waits_until_others_hold_what_was_placed_on_it() -> None:
    class Moving(Registry):
        async def read_fleet(self) -> FleetState:
            self.holds = {**self.holds, B: {VERSION}}
            return await super().read_fleet()

    registry = Moving(**{A: {VERSION}, B: set()})
    leaving = PlacementPlanner(registry, A)
    leaving.leaving = True
    await leaving.wait_until_handed_over(lambda: DESIRED, frozenset({VERSION}))
    assert registry.holds[B] == {VERSION}
    assert leaving.placed_here(DESIRED) == frozenset()


async def test_who_leaves_as_the_last_one_waits_for_nobody() -> None:
    leaving = PlacementPlanner(Registry(), A)
    leaving.leaving = True
    await leaving.wait_until_handed_over(lambda: DESIRED, frozenset({VERSION}))
