"""Runs the simulation of 10,000 requests once for all tests."""

import asyncio
from pathlib import Path

import pytest

from tests.reconcile.simulation import Simulated, simulate


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Simulated:
    return asyncio.run(simulate(tmp_path_factory.mktemp("simulation"), model_folder))
