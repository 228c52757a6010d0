"""The part of the reconciler that a running lora-server shows only by chance."""

import asyncio
from contextlib import suppress
from typing import Any

from pointsman_lora_server.board import Board
from pointsman_lora_server.domain import DesiredState
from pointsman_lora_server.reconcile import Reconciler


class Deaf:
    """A registry whose client swallows a cancellation, as `asyncio.wait_for` can in Python 3.11."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def read(self) -> DesiredState:
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return DesiredState({}, (), ())


async def test_it_ends_though_its_cancellation_was_swallowed() -> None:
    registry: Any = Deaf()
    hot_swap: Any = None  # nothing is wanted
    board = Board()
    running = asyncio.create_task(Reconciler(registry, hot_swap, board).run())
    await registry.asked.wait()

    board.close()
    running.cancel()

    done, _ = await asyncio.wait({running}, timeout=10)
    assert done
