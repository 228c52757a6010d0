"""Mistakes in requests to a running gateway: each error names the problem and what would be right."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_servicekit.keys.records import KeyScope, Limits

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": IN_CHAT}]


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    return neighbours


def assert_says(response: httpx.Response, status: int, problem: str, remedy: str) -> None:
    message = response.json()["error"]["message"]
    assert (response.status_code, message) == (status, message)
    assert problem in message
    assert remedy in message.partition(problem)[2]


@pytest.mark.parametrize(
    ("url", "body", "status", "problem", "remedy"),
    [
        (CHAT, {"model": "gpt-4o", "messages": TURNS}, 404, "unknown model 'gpt-4o'", "known: auto, tiny"),
        (CHAT, {"model": "path:handbok", "messages": TURNS}, 404, "'path:handbok'", "known: path:triage_adapter"),
        (CHAT, {"model": "nobody@prod", "messages": TURNS}, 404, "'nobody@prod'", "GET /v1/models lists all"),
        (CHAT, {"model": "auto"}, 400, "messages", "send at least one"),
        (CHAT, {"model": "auto", "messages": []}, 400, "messages", "send at least one"),
        (CHAT, {"model": "auto", "messages": TURNS, "temperature": 9}, 400, "temperature", "less than or equal to 2"),
        (CHAT, {"model": "auto", "messages": TURNS, "max_tokens": 0}, 400, "max_tokens", "greater than"),
        ("/v1/feedback", {"decision_id": "dec_1", "rating": 7}, 400, "'rating' is 7", "from 0 (bad) to 1 (good)"),
        ("/v1/feedback", {"decision_id": "dec_1", "rating": 1}, 404, "no decision 'dec_1'", "or no longer"),
        ("/v1/feedback", {"decision_id": "dec_1", "right_task": "chatt"}, 400, "'chatt'", "chat"),
        ("/v1/feedback", {"decision_id": "dec_1"}, 400, "is empty", "send a rating, a correction"),
        ("/v1/evaluations", {"id": "e", "results": []}, 400, "'id'", "match pattern"),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, 404, "'tiny'", "known"),
    ],
)
async def test_a_mistake_in_a_request(
    gateway: Gateway, http: httpx.AsyncClient, url: str, body: dict[str, Any], status: int, problem: str, remedy: str
) -> None:
    assert_says(await http.post(url, json=body), status, problem, remedy)


async def test_a_body_that_is_no_json(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    assert_says(await http.post(CHAT, content="{model: auto}", headers=headers), 400, "JSON", ":")


async def test_an_engine_that_died_is_named_and_said_to_be_tried_again(
    neighbours: Neighbours, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    body = {"model": "tiny", "messages": TURNS}
    engine.refuses(500, {"error": {"message": "CUDA said no"}})
    assert_says(await http.post(CHAT, json=body), 503, "engine 'local'", "CUDA said no")

    async def is_open() -> bool:
        return bool((await http.post(CHAT, json=body)).json()["error"]["code"] == "breaker_open")

    await found(is_open)
    refused = await http.post(CHAT, json=body)
    assert_says(refused, 503, "local has failed", "is tried again in")
    assert int(refused.headers["retry-after"]) >= 1


@pytest.fixture
async def guarded(neighbours: Neighbours) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of a gateway that requires keys."""
    neighbours.settings["auth"] = "on"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        yield client


@pytest.mark.parametrize(
    ("credential", "problem", "remedy"),
    [
        ("", "key", "Authorization: Bearer"),
        ("sk-abcdef", "key", "pm_"),
        ("pm_3fPq81xZ_" + "a" * 32, "this key is unknown", "pointsman keys"),
    ],
)
async def test_a_missing_or_wrong_key(guarded: httpx.AsyncClient, credential: str, problem: str, remedy: str) -> None:
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    assert_says(
        await guarded.post(CHAT, json={"model": "auto", "messages": TURNS}, headers=headers), 401, problem, remedy
    )


@pytest.mark.parametrize(
    ("order", "model", "status", "problem", "remedy"),
    [
        ({"limits": Limits(requests_per_minute=1)}, "auto", 429, "1 requests a minute", "try again in"),
        (
            {"limits": Limits(dollars_per_day=1e-9)},
            "auto",
            429,
            "dollars a day",
            "lower max_tokens, or have the limit raised",
        ),
        ({"scope": KeyScope(paths=("letter",))}, "path:small_talk", 403, "'small_talk'", "GET /v1/models lists what"),
        ({"scope": KeyScope(paths=("letter",))}, "path:nowhere", 404, "'path:nowhere'", "known: path:letter"),
    ],
)
async def test_what_a_key_may_not(
    guarded: httpx.AsyncClient,
    valkey: Valkey,
    order: dict[str, Any],
    model: str,
    status: int,
    problem: str,
    remedy: str,
) -> None:
    headers = {"authorization": f"Bearer {(await issue(valkey.url, **order)).credential.text}"}
    body = {"model": model, "messages": TURNS}
    answers = [await guarded.post(CHAT, json=body, headers=headers) for _ in range(2)]
    assert_says(answers[-1], status, problem, remedy)
