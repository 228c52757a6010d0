"""What watchers are told, and when."""

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import EngineStatus


async def test_a_state_that_does_not_change_is_told_again_and_again() -> None:
    watch = Board(heartbeat=0.01).watch()

    assert [(await anext(watch)).sequence for _ in range(3)] == [1, 1, 1]


async def test_a_change_is_told_without_waiting_for_the_heartbeat() -> None:
    board = Board(heartbeat=3600)
    watch = board.watch()
    first = await anext(watch)

    board.update(status=EngineStatus.READY)
    second = await anext(watch)

    assert (second.status, second.sequence) == (EngineStatus.READY, first.sequence + 1)


async def test_what_changes_nothing_is_not_told() -> None:
    board = Board()

    board.update(status=board.state.status)

    assert board.state.sequence == 1


async def test_a_closed_board_ends_its_watches() -> None:
    board = Board(heartbeat=3600)
    watch = board.watch()
    await anext(watch)

    board.close()

    assert [state async for state in watch] == []
