"""Ratings move a task's traffic to another path, with the real APIs and a real Valkey."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    terms = {"paths": ["small_talk", "safe_start"], "quality_floor": 0.5, "min_samples": 5, "exploration_rate": 0.5}
    neighbours.config.tasks["chat"]["policy"] = {"best_value": terms}
    return neighbours


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[HttpClient]:
    async with open_http_client(gateway) as client:
        yield HttpClient(client)


async def test_ratings_move_a_task_to_the_path_that_earned_them(api: HttpClient) -> None:
    asked = [await api.ask(IN_CHAT, user=f"user {number}") for number in range(40)]
    assert {answer.path for answer in asked} == {"small_talk", "safe_start"}  # one of them on trial
    for answer in asked:
        await api.say(answer.decision_id, rating=float(answer.path == "safe_start"))

    async def moved() -> bool:
        decision = await api.route(IN_CHAT)
        return bool((decision["path"], decision["reason"]) == ("safe_start", "policy:best_value"))

    await found(moved)
    decision = await api.route(IN_CHAT)
    [poor] = [row["reason"] for row in decision["considered"] if row["path"] == "small_talk"]
    assert "quality 0.00" in poor
    assert "under the floor 0.5" in poor
