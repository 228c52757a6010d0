"""Keys and budgets hold for requests that a real Envoy carries to the engine, as for direct requests."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pointsman_servicekit.keys.key_store import IssuedKey
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, answer, running_engine
from tests.gateway.doubles.envoy_ext_proc import running_envoy_with_processor
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import running_valkey
from tests.ports import free_port

CHAT = "/v1/chat/completions"
PRICE = 50e-6 * 10 + 1e-6 * 40
"""Dollars of an answer: 50 tokens of the prompt, and one of the completion."""
RESERVED = 3
"""How many answers of a budget may be missing at its end, because an answer's largest cost is reserved in advance."""


@dataclass(frozen=True)
class Billed:
    """An Envoy at `url`, the gateway that it asks, the engine behind both, and the URL of the gateway's Redis."""

    url: str
    direct: str
    engine: ScriptedEngine
    redis_url: str

    async def issue(self, budget: float) -> IssuedKey:
        return await issue(self.redis_url, Limits(dollars_per_day=budget))


@pytest.fixture
async def billed(tmp_path: Path, model_folder: Path) -> AsyncIterator[Billed]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine())
        engine.says(*answer("Hello", prompt_tokens=50))
        valkey = await stack.enter_async_context(running_valkey(tmp_path / "valkey"))
        config = ConfigFolder(tmp_path / "config")
        prices = {"prompt": 10.0, "cached": 2.5, "completion": 40.0}
        config.models["models"]["tiny"]["usd_per_million_tokens"] = prices
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config.paths, config.tasks = {"safe_start": {"model": "tiny"}}, {}
        address = f"127.0.0.1:{free_port()}"
        settings = {
            "config": config.write(), "embedding_model": model_folder, "ext_proc_listen": address,
            "auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal",
        }  # fmt: skip
        gateway = await stack.enter_async_context(process_gateway(tmp_path, **settings))
        url = await stack.enter_async_context(running_envoy_with_processor(tmp_path, address))
        yield Billed(url, gateway.url, engine, valkey.url)


async def ask(url: str, credential: str = "", stream: bool = False) -> httpx.Response:
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": stream, "max_tokens": 10}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(url + CHAT, json=body, headers=headers)


@pytest.mark.parametrize("credential", ["", "pk-0123456789abcdef0123456789abcdef", "unknown"])
async def test_a_request_without_a_valid_key_gets_the_error_of_a_direct_one(billed: Billed, credential: str) -> None:
    through, direct = await ask(billed.url, credential), await ask(billed.direct, credential)
    assert (through.status_code, through.json()) == (direct.status_code, direct.json())
    assert through.status_code == 401
    assert billed.engine.bodies == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_spent_budget_ends_the_requests_of_a_key(billed: Billed, stream: bool) -> None:
    key, other = await billed.issue(budget=10 * PRICE), await billed.issue(budget=1.0)
    statuses = [(await ask(billed.url, key.credential.text, stream)).status_code for _ in range(12)]
    answered = statuses.count(200)
    assert statuses == [200] * answered + [429] * (12 - answered)
    assert 10 - RESERVED <= answered <= 10
    assert len(billed.engine.bodies) == answered
    through, direct = await ask(billed.url, key.credential.text), await ask(billed.direct, key.credential.text)
    assert (through.status_code, through.json()["error"]["code"]) == (429, direct.json()["error"]["code"])
    assert (await ask(billed.url, other.credential.text)).status_code == 200


async def test_requests_through_envoy_and_direct_ones_share_a_budget(billed: Billed) -> None:
    key = await billed.issue(budget=10 * PRICE)
    urls = [billed.url, billed.direct] * 6
    answers = [await ask(url, key.credential.text) for url in urls]
    paid = [float(one.headers["x-pointsman-cost-usd"]) for one in answers if one.status_code == 200]
    assert paid == [pytest.approx(PRICE)] * len(paid)
    assert 10 - RESERVED <= len(paid) <= 10
