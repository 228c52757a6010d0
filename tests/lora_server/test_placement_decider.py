"""Several deciders with one Redis: one of them decides, all follow, and another takes over if it stops."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import pytest
from pointsman_lora_server.adapters import convergence, placement_decider
from pointsman_lora_server.adapters.convergence import EngineConvergence
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.placement_decider import DeciderOptions, PlacementDecider, versions_by_demand
from pointsman_lora_server.adapters.state_machine import RetryBackoff, VersionStateMachine
from pointsman_lora_server.domain import (
    AdapterVersion,
    Alias,
    Canary,
    DesiredState,
    EngineReport,
    EngineState,
    EngineStatus,
    Phase,
    PhaseRecord,
    Placement,
    StoredPlan,
    TokenRate,
)
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.metrics import LoraServerMetrics
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import BoundedRedis

from tests.gateway.doubles.clocks import Clock

TRIAGE, VOICE = "triage@3f9a1c0b77de", "voice@0123456789ab"


def desired(*versions: str, **more: object) -> DesiredState:
    return DesiredState(
        versions={v: AdapterVersion(v.partition("@")[0], v.partition("@")[2], "b", 8, (), 1, 1) for v in versions},
        phases={version: PhaseRecord(Phase.READY) for version in versions},
        aliases=tuple(Alias(f"{v.partition('@')[0]}@prod", v, 1) for v in versions),
        default_placement=Placement(by_demand=True),
        **more,  # type: ignore[arg-type]
    )


class Server:
    """One lora-server's decider, with an engine whose counters the test sets."""

    def __init__(self, name: str, redis: BoundedRedis, clock: Clock) -> None:
        self.name, self.clock = name, clock
        self.tokens: dict[str, float] = {}
        self.resident: set[str] = set()
        self.registry = AdapterRegistry(redis, "tiny-base")
        self.metrics = LoraServerMetrics("tiny-base")
        options = DeciderOptions(name, owner=name, moves_per_minute=60.0, tokens_per_second=100.0)
        self.decider = PlacementDecider(self.registry, self, lambda: 4, self.metrics, options, clock)

    async def count_tokens(self) -> Mapping[str, float]:
        return self.tokens

    async def run(self, state: DesiredState) -> None:
        engine = EngineState(EngineStatus.READY, resident=frozenset(self.resident))
        await self.decider.run_once(state, engine)

    async def plan(self) -> Mapping[str, tuple[str, ...]]:
        return (await self.registry.read_plan(StoredPlan())).engines

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pointsman_lora_placement_{name}", labels)


async def test_one_of_several_decides_and_a_busy_version_gets_a_second_copy(bounded_redis: BoundedRedis) -> None:
    clock, state = Clock(), desired(TRIAGE, VOICE)
    servers = [Server(name, bounded_redis, clock) for name in "abc"]
    for server in (*servers, *servers):  # the decider runs before it knows the others
        await server.run(state)
    first = await servers[0].plan()
    assert {version: len(engines) for version, engines in first.items()} == {TRIAGE: 1, VOICE: 1}
    by_name = {server.name: server for server in servers}
    busy = by_name[first[TRIAGE][0]]
    for version, (engine,) in first.items():
        by_name[engine].resident.add(version)
    for _ in range(16):
        clock.passes(5.0)
        busy.tokens[TRIAGE] = busy.tokens.get(TRIAGE, 0.0) + 450.0  # 90 a second
        for server in servers:
            await server.run(state)
    after = await servers[2].plan()
    assert (len(after[TRIAGE]), len(after[VOICE])) == (2, 1)
    assert set(first[TRIAGE]) < set(after[TRIAGE])
    assert servers[0].sample("copies", version=TRIAGE) == 2
    assert servers[0].sample("moves_total", reason="balance") == 1, "the other engines had nothing to do"
    assert servers[0].sample("moves_total", reason="first_copy") == 2
    assert [server.sample("copies", version=TRIAGE) for server in servers[1:]] == [None, None]


async def test_another_server_takes_over_and_keeps_the_plan(bounded_redis: BoundedRedis) -> None:
    clock, state = Clock(), desired(TRIAGE)
    first, second = Server("a", bounded_redis, clock), Server("b", bounded_redis, clock)
    await first.run(state)
    await second.run(state)
    plan = await first.plan()
    await first.registry.release_lease(placement_decider.LEASE, "a")
    clock.passes(5.0)
    second.resident = {TRIAGE}
    await second.run(state)
    assert await second.plan() == plan
    assert second.sample("copies", version=TRIAGE) == 1


async def test_after_redis_was_away_the_copies_stay_until_all_engines_have_reported(
    bounded_redis: BoundedRedis,
) -> None:
    clock, state = Clock(), desired(TRIAGE, VOICE)
    servers = [Server(name, bounded_redis, clock) for name in "abc"]
    for server in (*servers, *servers):
        await server.run(state)
    plan = await servers[0].plan()
    await bounded_redis.client.delete("{pointsman:adapters:tiny-base}:demand")  # as if all reports had expired
    for server in servers:
        clock.passes(2.0)
        await server.run(state)
        assert await server.plan() == plan
    gone = next(server for server in servers[1:] if (server.name,) in plan.values())
    await bounded_redis.client.hdel("{pointsman:adapters:tiny-base}:demand", gone.name)
    for _ in range(3):
        clock.passes(placement_decider.PLAN_SECONDS)
        await servers[0].run(state)
    assert gone.name not in {name for names in (await servers[0].plan()).values() for name in names}


async def test_a_planned_copy_stays_while_its_engine_has_not_loaded_it_yet(bounded_redis: BoundedRedis) -> None:
    versions = [f"adapter-{number}@{number:012x}" for number in range(9)]
    clock, state = Clock(), desired(*versions)
    a, b = (Server(name, bounded_redis, clock) for name in "ab")
    a.resident, b.resident = set(versions[:3]), set(versions[3:6])
    for _ in range(12):  # one version keeps the engine a busy, and there are more versions than slots
        clock.passes(5.0)
        a.tokens[versions[0]] = a.tokens.get(versions[0], 0.0) + 475.0
        await b.registry.report_demand(EngineReport("b", 4, 0, 100.0, frozenset(b.resident)), 60.0)
        await a.run(state)
        if len((await a.plan())[versions[0]]) == 2:
            break
    moves = a.sample("moves_total", reason="demand"), a.sample("moves_total", reason="balance")
    clock.passes(5.0)
    await a.run(state)
    assert len((await a.plan())[versions[0]]) == 2
    assert (a.sample("moves_total", reason="demand"), a.sample("moves_total", reason="balance")) == moves


async def test_a_decider_that_was_suspended_does_not_overwrite_a_newer_plan(bounded_redis: BoundedRedis) -> None:
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    old = await registry.read_plan(StoredPlan())
    new = await registry.write_plan(old, {TRIAGE: ["a"]})
    assert new is not None
    assert await registry.write_plan(old, {TRIAGE: ["b"]}) is None
    read = await registry.read_plan(StoredPlan())
    assert read == new
    assert await registry.read_plan(read) is read
    newest = await registry.write_plan(read, {VOICE: []})
    assert await registry.read_plan(read) == newest
    assert newest is not None
    assert newest.engines == {VOICE: ()}


async def test_an_entry_of_the_plan_that_cannot_be_read_stops_nothing(
    bounded_redis: BoundedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    a = Server("a", bounded_redis, Clock())
    await a.registry.write_plan(await a.registry.read_plan(StoredPlan()), {TRIAGE: ["a"], VOICE: ["a"]})
    await bounded_redis.client.hset("{pointsman:adapters:tiny-base}:plan", TRIAGE, "{")
    planner, state = PlacementPlanner(a.registry, "a"), desired(TRIAGE, VOICE)
    await planner.refresh()
    assert planner.placed_here(state) == {VOICE}
    assert f"the engines of '{TRIAGE}' in the plan" in caplog.text
    await a.run(state)
    assert await a.plan() == {TRIAGE: ("a",), VOICE: ("a",)}


async def test_reports_expire_and_those_of_another_form_are_left_out(bounded_redis: BoundedRedis) -> None:
    registry = AdapterRegistry(bounded_redis, "tiny-base")
    kept = EngineReport("a (http://a)", 4, 1, 50.0, frozenset({TRIAGE}), {TRIAGE: TokenRate(1.5, 2.5)})
    await registry.report_demand(kept, 60.0)
    await registry.report_demand(EngineReport("b", 4), 0.001)
    await bounded_redis.client.hset("{pointsman:adapters:tiny-base}:demand", "c", "99999999999999 {}")
    endless = EngineReport("d", 4, 1, 50.0, frozenset(), {TRIAGE: TokenRate(math.nan, math.inf)})
    await registry.report_demand(endless, 60.0)
    await asyncio.sleep(0.01)
    assert await registry.read_demand() == [kept]


def test_only_versions_with_an_alias_by_demand_and_without_a_pin_are_planned() -> None:
    state = desired(TRIAGE, VOICE)
    assert versions_by_demand(state) == {TRIAGE, VOICE}
    assert versions_by_demand(desired(TRIAGE, VOICE, pins=frozenset({TRIAGE}))) == {VOICE}
    assert versions_by_demand(desired(TRIAGE, VOICE, placements={"voice": Placement()})) == {TRIAGE}


def test_canaries_are_kept() -> None:
    state = desired(TRIAGE, VOICE)
    canary = Alias("triage@prod", TRIAGE, 2, Canary(VOICE, 0.1))
    with_canary = DesiredState(state.versions, state.phases, (canary,), default_placement=state.default_placement)
    assert placement_decider.kept_versions(with_canary, {TRIAGE, VOICE}) == {VOICE}


def test_an_announcement_that_has_expired_keeps_no_version() -> None:
    expired = desired(TRIAGE, VOICE, upcoming={TRIAGE: 1, VOICE: 2**53})
    assert placement_decider.kept_versions(expired, {TRIAGE, VOICE}) == {VOICE}


async def test_adapters_are_placed_by_demand_if_nothing_else_is_set_for_them(bounded_redis: BoundedRedis) -> None:
    auto, everywhere = Placement(by_demand=True), Placement()
    by_demand = AdapterRegistry(bounded_redis, "tiny-base", default_placement=auto)
    await by_demand.add_version(AdapterVersion("triage", "3f9a1c0b77de", "tiny-base", 8, (), 1, 1), "", False, "")
    assert (await by_demand.read()).placement_of(TRIAGE) == auto
    await by_demand.set_placement("triage", everywhere, None, "")
    assert (await by_demand.read()).placement_of(TRIAGE) == everywhere
    await by_demand.set_placement("triage", auto, everywhere, "")
    assert (await by_demand.read()).placements == {}
    other = AdapterRegistry(bounded_redis, "tiny-base")
    await other.set_placement("triage", auto, everywhere, "")
    assert (await other.read()).placements == {"triage": auto}


class Loader:
    """Holds what `EngineConvergence` loads, until the test evicts it."""

    capacity = 8

    def __init__(self, engine_state: EngineStateStore) -> None:
        self.engine_state = engine_state
        self.loads: list[str] = []

    def set_placed(self, placed: frozenset[str]) -> None: ...

    def rejection(self, version: str) -> None: ...

    async def sync_with_engine(self, needed: object) -> None: ...

    async def preload(self, version: AdapterVersion) -> bool:
        self.loads.append(version.version)
        self.engine_state.update(resident=self.engine_state.state.resident | {version.version})
        return True


async def test_a_version_evicted_for_another_is_not_loaded_again_at_once(
    bounded_redis: BoundedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, state = AdapterRegistry(bounded_redis, "tiny-base"), desired(TRIAGE)
    await registry.write_plan(await registry.read_plan(StoredPlan()), {TRIAGE: ["a"]})
    engine_state, nothing = EngineStateStore(), VersionStateMachine.__new__(VersionStateMachine)
    nothing.retries = RetryBackoff()
    engine_state.update(status=EngineStatus.READY, life=1)
    loader: Any = Loader(engine_state)
    converge = EngineConvergence(loader, nothing, engine_state, PlacementPlanner(registry, "a")).converge
    await converge(state, True)
    await converge(state, True)
    assert loader.loads == [TRIAGE]
    engine_state.update(resident=frozenset())
    await converge(state, True)
    assert loader.loads == [TRIAGE]
    monkeypatch.setattr(convergence, "EVICTED_SECONDS", 0.0)
    await converge(state, True)
    assert loader.loads == [TRIAGE, TRIAGE]
