"""A receipt names the engine whose provider charges for the answer; if several answers were charged for, it lists
each."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.receipts import receipts_once
from tests.gateway.doubles.valkey import Valkey

SCHEMA = {"type": "object", "required": ["urgency"]}
GOOD, BAD = '{"urgency": "low"}', '{"intent": "lost_item"}'
GRAND = {"prompt": 10.0, "cached": 2.5, "completion": 40.0}


@pytest.fixture(autouse=True)
def small_then_large(neighbours: Neighbours, second_engine: ScriptedEngine, valkey: Valkey, tmp_path: Path) -> None:
    """Changes the configuration: triage uses a small path first and then a large one on another engine; chat uses the
    small path.
    """
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    config = neighbours.config
    config.models["models"]["grand"] = {"context_window": 4096, "usd_per_million_tokens": GRAND}
    config.models["engines"]["far"] = {"model": "grand", "url": second_engine.url}
    config.models["resilience"] = {"retries": {"max_retries": 0}}
    config.paths |= {"small": {"model": "tiny"}, "large": {"model": "grand"}}
    config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["small", "large"]}}, "fallback": [], "validators": [{"json_schema": SCHEMA}],
    }  # fmt: skip
    config.tasks["chat"] |= {"policy": {"fixed": "small"}, "fallback": ["large"]}
    second_engine.says(*answer(GOOD, prompt_tokens=50))


async def receipt_of(neighbours: Neighbours, valkey: Valkey, text: str) -> dict[str, Any]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await _ask(http, text)
        receipts = await receipts_once(valkey.url, lambda found: found.decided)
    (receipt,) = receipts.decided
    return receipt


async def _ask(http: httpx.AsyncClient, text: str) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    await http.post("/v1/chat/completions", json=body)


async def test_an_answer_of_one_engine_names_it(neighbours: Neighbours, valkey: Valkey) -> None:
    receipt = await receipt_of(neighbours, valkey, IN_CHAT)
    assert (receipt["engine"], receipt["model"]) == ("local", "tiny")
    assert "attempts" not in receipt


async def test_after_a_failure_before_the_first_token_only_the_engine_that_answered_is_charged(
    neighbours: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    engine.refuses(503, {"error": {"message": "not now"}})
    receipt = await receipt_of(neighbours, valkey, IN_CHAT)
    assert (receipt["engine"], receipt["model"]) == ("far", "grand")
    assert "attempts" not in receipt


async def test_the_rejected_answer_and_its_replacement_are_listed_and_add_up(
    neighbours: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    engine.says(*answer(BAD, prompt_tokens=20))
    receipt = await receipt_of(neighbours, valkey, IN_TRIAGE)
    attempts = receipt["attempts"]
    assert [(one["engine"], one["model"]) for one in attempts] == [("local", "tiny"), ("far", "grand")]
    assert [one["usage"]["prompt_tokens"] for one in attempts] == [20, 50]
    assert attempts[1]["cost_parts_usd"]["prompt"] == 50 * 10e-6
    for kind, tokens in receipt["usage"].items():
        assert sum(one["usage"][kind] for one in attempts) == tokens
    for component, usd in receipt["cost_parts_usd"].items():
        assert sum(one["cost_parts_usd"][component] for one in attempts) == pytest.approx(usd)


async def test_an_answer_that_breaks_off_while_it_is_buffered_stays_charged_to_its_engine(
    neighbours: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("a", "b", "c"), BREAK)
    receipt = await receipt_of(neighbours, valkey, IN_TRIAGE)
    local, far = receipt["attempts"]
    assert (local["engine"], local["usage"]["completion_tokens"], local["token_details"]) == (
        "local", 3, {"is_estimate": True},
    )  # fmt: skip
    assert (far["engine"], "token_details" in far) == ("far", False)
