"""What watchers are told, and when."""

import asyncio

from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import Alias, EngineStatus

PROD = (Alias("triage@prod", "triage@000000000001", 1),)


def ready() -> EngineStateStore:
    board = EngineStateStore(heartbeat=3600)
    board.update(status=EngineStatus.READY, life=1)
    return board


async def test_a_state_that_does_not_change_is_told_again_and_again() -> None:
    watch = EngineStateStore(heartbeat=0.01).watch()

    assert [(await anext(watch)).sequence for _ in range(3)] == [1, 1, 1]


async def test_a_change_is_told_without_waiting_for_the_heartbeat() -> None:
    board = EngineStateStore(heartbeat=3600)
    watch = board.watch()
    first = await anext(watch)

    board.update(status=EngineStatus.READY)
    second = await anext(watch)

    assert (second.status, second.sequence) == (EngineStatus.READY, first.sequence + 1)


async def test_what_changes_nothing_is_not_told() -> None:
    board = EngineStateStore()

    board.update(status=board.state.status)

    assert board.state.sequence == 1


async def test_a_closed_board_ends_its_watches() -> None:
    board = EngineStateStore(heartbeat=3600)
    watch = board.watch()
    await anext(watch)

    board.close()

    assert [state async for state in watch] == []


async def test_what_is_ready_and_not_resident_can_be_had() -> None:
    board = ready()
    board.publish(PROD, frozenset({"a", "b"}))
    assert board.state.loadable == {"a", "b"}

    board.loads("a")
    board.holds("a")

    assert (board.state.resident, board.state.loading, board.state.loadable) == ({"a"}, set(), {"b"})


async def test_what_drains_is_not_resident_until_it_is_loaded_again() -> None:
    board = ready()
    board.holds("a")

    board.drains("a")
    assert (board.state.resident, board.state.draining) == (set(), {"a"})

    board.loads("a")
    assert (board.state.loading, board.state.draining) == ({"a"}, set())


async def test_an_engine_that_is_down_holds_nothing_and_what_it_held_is_remembered_once() -> None:
    board = ready()
    board.publish(PROD, frozenset({"a", "b"}))
    board.holds("a")
    board.loads("b")

    board.update(status=EngineStatus.DOWN)

    state = board.state
    assert (state.resident, state.loading, state.draining, state.loadable) == (set(), set(), set(), set())
    assert state.aliases == PROD
    assert (board.take_lost(), board.take_lost()) == ({"a"}, set())


async def test_a_change_between_the_look_and_the_wait_is_not_missed() -> None:
    board = ready()
    seen = board.state
    board.holds("a")

    async with asyncio.timeout(1):
        await board.until_other_than(seen, 3600)


def test_who_leaves_holds_nothing_for_anyone_new_whatever_comes_after() -> None:
    board = EngineStateStore()
    board.update(status=EngineStatus.READY, life=1, detail="ready", resident=frozenset({"triage@3f9a1c0b77de"}))
    board.leave()
    assert (board.state.status, board.state.resident) == (EngineStatus.DOWN, frozenset())
    assert board.state.detail == "it is leaving: it ends what it has begun"
    left = board.state
    board.holds("triage@3f9a1c0b77de")
    board.update(status=EngineStatus.READY, detail="ready")
    assert board.state == left
    board.update(status=EngineStatus.DOWN, detail="stops")
    assert board.state == left
