"""Ratings move a task's traffic to another path, with the real APIs and a real Valkey; evaluations count as ratings."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
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


def result(**fields: Any) -> dict[str, Any]:
    known = {"task": "chat", "path": "small_talk", "fingerprint": "f", "model": "tiny", "rows": 10, "score": 0.5}
    return {"id": "0" * 64, "results": [known | fields]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (result(task="chess"), "unknown task 'chess'; known: "),
        (result(path="nowhere"), "unknown path 'nowhere'; known: "),
        (result(rows=0), "'results[0].rows': Input should be greater than or equal to 1"),
        (result(score=1.5), "'results[0].score': Input should be less than or equal to 1"),
        (result() | {"id": "mine"}, "'id': String should match pattern"),
        (result() | {"results": []}, "'results': List should have at least 1 item"),
    ],
)
async def test_a_bad_evaluation_is_refused(gateway: Gateway, body: dict[str, Any], message: str) -> None:
    async with open_http_client(gateway) as client:
        answer = await client.post("/v1/evaluations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


async def test_only_operators_send_evaluations(neighbours: Neighbours, valkey: Valkey) -> None:
    neighbours.settings |= {"auth": "on"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        for operator, expected in ((False, (403, "not_operator")), (True, (400, "unknown_path"))):
            key = (await issue(valkey.url, operator=operator)).credential.text
            headers = {"authorization": f"Bearer {key}"}
            answer = await client.post("/v1/evaluations", json=result(path="nowhere"), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == expected
