"""Texts in the request log and in feedback pass the redaction hook first; if it fails, they are not stored."""

import json
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from redis.asyncio import Redis

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import answer
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.request_logs import entries_of
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

CARD, MAIL = "4111 1111 1111 1111", "ann@example.org"


@pytest.fixture
def keeping(neighbours: Neighbours, valkey: Valkey) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "redaction": "pointsman_gateway.redaction:redact_common"}
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True, "store_answers": True}
    neighbours.engine.says(*answer("Dear ", MAIL))
    return neighbours


async def everything(valkey: Valkey) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns the logged decisions, and the feedback on them."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        streams = ("{pointsman}:decisions", "{pointsman}:feedback")
        decisions, feedback = [await entries_of(redis, name) for name in streams]
        return decisions, feedback


async def ask_and_say(neighbours: Neighbours, valkey: Valkey) -> tuple[dict[str, Any], dict[str, str]]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        message = {"role": "user", "content": f"{IN_CHAT} I am {MAIL}, my card is {CARD}"}
        asked = {"model": "auto", "messages": [message], "user": MAIL, "metadata": {"from": MAIL}}
        answer = await client.post("/v1/chat/completions", json=asked)
        given = {"rating": 0.5, "correction": f"ask {MAIL}", "right_answer": f"paid with {CARD}"}
        decision_id = answer.headers["x-pointsman-decision-id"]
        assert (await client.post("/v1/feedback", json={"decision_id": decision_id, **given})).status_code == 200

        async def both() -> Any:
            decisions, feedback = await everything(valkey)
            return decisions and feedback and (json.loads(decisions[0]["entry"]), feedback[0])

        entry, kept = await found(both)
        assert CARD not in str((entry, kept))
        assert MAIL not in str((entry, kept))
        assert gateway.metric("pointsman_redaction_failures_total") == (0 if entry["text"] == "stored" else 5)
    return entry, kept


async def test_stored_texts_are_redacted(keeping: Neighbours, valkey: Valkey) -> None:
    entry, feedback = await ask_and_say(keeping, valkey)
    assert entry["messages"][0]["content"] == f"{IN_CHAT} I am [email], my card is [card]"
    assert entry["answer"] == "Dear [email]"
    assert (entry["text"], entry["user"], entry["metadata"]) == ("stored", "[email]", {"from": "[email]"})
    assert (feedback["correction"], feedback["right_answer"]) == ("ask [email]", "paid with [card]")


async def test_if_the_hook_fails_everything_except_text_is_stored(
    failing: None, keeping: Neighbours, valkey: Valkey
) -> None:
    keeping.settings["redaction"] = "failing_hook:redact"
    entry, feedback = await ask_and_say(keeping, valkey)
    assert (entry["text"], entry["messages"], entry["user"], entry["metadata"], entry["answer"]) == (
        "not redacted", None, None, {"from": ""}, None,
    )  # fmt: skip
    assert (entry["path"], entry["outcome"]) == ("small_talk", "ok")
    assert (feedback["rating"], feedback["correction"], feedback["right_answer"]) == ("0.5", "", "")


async def test_an_invalid_hook_prevents_the_start(keeping: Neighbours) -> None:
    keeping.settings["redaction"] = "no_such_module:redact"
    await keeping.ready()
    with pytest.raises(ConfigError, match="POINTSMAN_GATEWAY_REDACTION: the hook 'no_such_module:redact' cannot be"):
        async with keeping.gateway():
            pass
