"""The expected state is right even if two changes are made at the same time."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tests.endurance.faults import Faults
from tests.endurance.schedule import Event
from tests.endurance.truth import History, Truth

VERSIONS = ["triage-1", "triage-2", "triage-3"]


class SlowLoraServer:
    """A lora-server that answers calls once `gate` is set: a rollback leads to the second version, a promotion to the
    requested one.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def call(self, method: str, request: Any, comes_again: bool) -> Any:
        await self.gate.wait()
        return SimpleNamespace(version="triage-2" if method == "Rollback" else request.version)


async def test_of_two_moves_at_the_same_time_both_are_expected() -> None:
    lora_server, truth = SlowLoraServer(), Truth()
    truth.aliases["triage"] = History([(0.0, 0.0, "triage-1")])
    world = SimpleNamespace(lora_server=lora_server, versions={"triage": VERSIONS})
    faults = Faults(cast(Any, world), truth, cast(Any, None))
    faults.start_change(Event(0.0, "roll back", "", 0.0, 0))
    faults.start_change(Event(0.0, "promote", "", 0.0, 4))
    for _ in range(3):
        await asyncio.sleep(0)
    lora_server.gate.set()
    await faults.settle()
    assert [value for _, _, value in truth.aliases["triage"].changes] == ["triage-1", "triage-2", "triage-3"]
    assert truth.aliases["triage"].current == "triage-3"
