"""One evening at the help desk, for all tests of this folder."""

import asyncio

import pytest

from tests.monitoring.evening import Evening, spend
from tests.monitoring.house import running_house
from tests.monitoring.watch import ALERTMANAGER, PROMETHEUS, free_address, program


@pytest.fixture(scope="session")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    for names in (PROMETHEUS, ALERTMANAGER):
        if program(names) is None:
            pytest.fail(f"{names[0]} is not installed: make monitoring-tools")
    with running_house(tmp_path_factory.mktemp("home"), free_address(), free_address()) as house:
        return asyncio.run(spend(house, tmp_path_factory.mktemp("watch")))
