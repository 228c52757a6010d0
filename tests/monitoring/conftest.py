"""One monitored run of the help desk for all tests of this folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.gateway.doubles.otlp_agent import running_agent
from tests.monitoring.evening import Evening, spend
from tests.monitoring.house import House, running_house
from tests.monitoring.watch import ALERTMANAGER, PROMETHEUS, program


@pytest.fixture(scope="session")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    for names in (PROMETHEUS, ALERTMANAGER):
        if program(names) is None:
            pytest.fail(f"{names[0]} is not installed: make monitoring-tools")
    home, watch, agent = (tmp_path_factory.mktemp(name) for name in ("home", "watch", "agent"))
    return asyncio.run(_spend(home, watch, agent))


async def _spend(home: Path, watch: Path, of_agent: Path) -> Evening:
    """Stops the services before the agent, so that all of their spans arrive."""
    async with running_agent(of_agent) as agent:
        async with _beside(running_house(home, agent.url)) as house:
            evening = await spend(house, watch)
        evening.spans = agent.collector.spans
    return evening


@asynccontextmanager
async def _beside(house: AbstractContextManager[House]) -> AsyncIterator[House]:
    """Runs the context in a thread, while the collector receives spans in this one."""
    living = await asyncio.to_thread(house.__enter__)
    try:
        yield living
    finally:
        await asyncio.to_thread(house.__exit__, None, None, None)
