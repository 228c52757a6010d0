"""One monitored run of the help desk for all tests of this folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.gateway.doubles.otlp_agent import running_agent
from tests.monitoring.help_desk import HelpDesk, run_help_desk
from tests.monitoring.monitored_run import MonitoredRun, spend
from tests.monitoring.watch import ALERTMANAGER, PROMETHEUS, program


@pytest.fixture(scope="session")
def monitored_run(tmp_path_factory: pytest.TempPathFactory) -> MonitoredRun:
    for names in (PROMETHEUS, ALERTMANAGER):
        if program(names) is None:
            pytest.fail(f"{names[0]} is not installed: make monitoring-tools")
    home, watch, agent = (tmp_path_factory.mktemp(name) for name in ("home", "watch", "agent"))
    return asyncio.run(_spend(home, watch, agent))


async def _spend(home: Path, watch: Path, of_agent: Path) -> MonitoredRun:
    """Runs the help desk under load and returns the results. The services stop before the agent, so that all of their
    spans arrive.
    """
    async with running_agent(of_agent) as agent:
        async with _beside(run_help_desk(home, agent.url)) as help_desk:
            monitored_run = await spend(help_desk, watch)
        monitored_run.spans = agent.collector.spans
    return monitored_run


@asynccontextmanager
async def _beside(help_desk: AbstractContextManager[HelpDesk]) -> AsyncIterator[HelpDesk]:
    """Runs the context manager in a thread, while the collector receives spans in this one."""
    living = await asyncio.to_thread(help_desk.__enter__)
    try:
        yield living
    finally:
        await asyncio.to_thread(help_desk.__exit__, None, None, None)
