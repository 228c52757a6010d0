"""Which engine states watchers receive, and when."""

import asyncio

from pointsman_lora_server.domain import Alias, EngineStatus
from pointsman_lora_server.engine_state import EngineStateStore

PROD = (Alias("triage@prod", "triage@000000000001", 1),)


def ready() -> EngineStateStore:
    engine_state = EngineStateStore(heartbeat=3600)
    engine_state.update(status=EngineStatus.READY, life=1)
    return engine_state


async def test_an_unchanged_state_is_sent_periodically() -> None:
    watch = EngineStateStore(heartbeat=0.01).watch()

    assert [(await anext(watch)).sequence for _ in range(3)] == [1, 1, 1]


async def test_a_change_is_sent_without_waiting_for_the_heartbeat() -> None:
    engine_state = EngineStateStore(heartbeat=3600)
    watch = engine_state.watch()
    first = await anext(watch)

    engine_state.update(status=EngineStatus.READY)
    second = await anext(watch)

    assert (second.status, second.sequence) == (EngineStatus.READY, first.sequence + 1)


async def test_updates_without_a_change_are_not_sent() -> None:
    engine_state = EngineStateStore()

    engine_state.update(status=engine_state.state.status)

    assert engine_state.state.sequence == 1


async def test_closing_the_store_ends_its_watches() -> None:
    engine_state = EngineStateStore(heartbeat=3600)
    watch = engine_state.watch()
    await anext(watch)

    engine_state.close()

    assert [state async for state in watch] == []


async def test_ready_versions_that_are_not_loaded_are_loadable() -> None:
    engine_state = ready()
    engine_state.set_desired(PROD, {"a": None, "b": None})
    assert engine_state.state.loadable == {"a", "b"}

    engine_state.mark_loading("a")
    engine_state.mark_resident("a")

    assert (engine_state.state.resident, engine_state.state.loading, engine_state.state.loadable) == (
        {"a"},
        set(),
        {"b"},
    )


async def test_a_draining_version_does_not_count_as_loaded() -> None:
    engine_state = ready()
    engine_state.mark_resident("a")

    engine_state.mark_draining("a")
    assert (engine_state.state.resident, engine_state.state.draining) == (set(), {"a"})

    engine_state.mark_loading("a")
    assert (engine_state.state.loading, engine_state.state.draining) == ({"a"}, set())


async def test_a_stopped_engine_holds_nothing_and_its_versions_are_remembered_once() -> None:
    engine_state = ready()
    engine_state.set_desired(PROD, {"a": None, "b": None})
    engine_state.mark_resident("a")
    engine_state.mark_loading("b")

    engine_state.update(status=EngineStatus.DOWN)

    state = engine_state.state
    assert (state.resident, state.loading, state.draining, state.loadable) == (set(), set(), set(), set())
    assert state.aliases == PROD
    assert (engine_state.pop_lost(), engine_state.pop_lost()) == ({"a"}, set())


async def test_a_change_between_check_and_wait_is_not_missed() -> None:
    engine_state = ready()
    seen = engine_state.state
    engine_state.mark_resident("a")

    async with asyncio.timeout(1):
        await engine_state.wait_for_other_than(seen, 3600)


def test_a_leaving_server_reports_no_loaded_versions() -> None:
    engine_state = EngineStateStore()
    engine_state.update(status=EngineStatus.READY, life=1, detail="ready", resident=frozenset({"triage@3f9a1c0b77de"}))
    engine_state.start_shutdown()
    assert (engine_state.state.status, engine_state.state.resident) == (EngineStatus.DOWN, frozenset())
    assert engine_state.state.detail == "shutting down: requests in flight are finished"
    left = engine_state.state
    engine_state.mark_resident("triage@3f9a1c0b77de")
    engine_state.update(status=EngineStatus.READY, detail="ready")
    assert engine_state.state == left
    engine_state.update(status=EngineStatus.DOWN, detail="stops")
    assert engine_state.state == left
