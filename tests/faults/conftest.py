"""A deployment of processes that can be stopped while the gateway serves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.doubles.town import Town, running_town


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with running_town(tmp_path) as town:
        yield town


@pytest.fixture
async def narrow_town(tmp_path: Path) -> AsyncIterator[Town]:
    """A deployment whose gateway answers at most 16 requests at once and queues 8 more for up to 0.5 s."""
    async with running_town(tmp_path, max_in_flight=16, queue_size=8, queue_timeout=0.5) as town:
        yield town
