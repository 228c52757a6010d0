"""A deployment of processes that a test can stop while the gateway serves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.doubles.deployment import Deployment, run_deployment


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with run_deployment(tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def narrow_deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Yields a deployment whose gateway handles at most 16 requests at once, and queues 8 more for up to 0.5 s."""
    async with run_deployment(tmp_path, max_in_flight=16, queue_size=8, queue_timeout=0.5) as deployment:
        yield deployment
