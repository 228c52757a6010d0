"""Answers are stored for training if the configuration names their task and the caller's tenant consents."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.flywheel import LearningConfig
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import CompletedAnswer
from pointsman_gateway.request_log import redis_schema
from redis.asyncio import Redis

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import answer
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.request_logs import REQUEST, decision, decisions_in, entries_of, receipt, run_request_log
from tests.gateway.doubles.tenancy import issue, register_at
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

JSON = '{"intent": "lost_item"}'


@pytest.fixture
def learning(neighbours: Neighbours, valkey: Valkey) -> Neighbours:
    """Changes the configuration so that answers of triage may be used for training, for every caller."""
    neighbours.settings |= {"redis_url": valkey.url}
    neighbours.config.rest_of_tasks["learning"] = {"tasks": ["triage"], "anonymous_consent": True}
    neighbours.engine.says(*answer(JSON))
    return neighbours


async def samples(valkey: Valkey) -> list[dict[str, Any]]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        return [json.loads(fields["sample"]) for fields in await entries_of(redis, redis_schema.TRAINING_SAMPLES)]


@asynccontextmanager
async def asked(
    neighbours: Neighbours, valkey: Valkey, *texts: str, key: str = "", model: str = "auto", **parameters: Any
) -> AsyncIterator[Gateway]:
    """Runs a gateway and sends it the texts; yields it once all answers are logged."""
    await neighbours.ready()
    before = len(await decisions_in(valkey.url))
    shown = {"authorization": f"Bearer {key}"} if key else {}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        for text in texts:
            body = {"model": model, "messages": [{"role": "user", "content": text}], "metadata": {}} | parameters
            assert (await client.post("/v1/chat/completions", json=body, headers=shown)).status_code == 200

        async def written() -> bool:
            return len(await decisions_in(valkey.url)) == before + len(texts)

        await found(written)
        yield gateway


async def test_an_answer_is_stored_with_messages_path_and_decision(learning: Neighbours, valkey: Valkey) -> None:
    async with asked(learning, valkey, IN_TRIAGE):
        (kept,) = await samples(valkey)
        (decided,) = await decisions_in(valkey.url)
    assert (kept["decision"], kept["task"], kept["tenant"]) == (decided["id"], "triage", "")
    assert kept["messages"] == [{"role": "user", "content": IN_TRIAGE}]
    assert kept["answers"] == [{"path": "triage_adapter", "text": JSON, "verdicts": []}]


async def test_other_tasks_and_named_paths_are_not_stored(learning: Neighbours, valkey: Valkey) -> None:
    async with asked(learning, valkey, IN_CHAT):
        pass
    async with asked(learning, valkey, IN_TRIAGE, model="path:triage_adapter"):
        assert await samples(valkey) == []


async def test_an_answer_in_a_form_of_the_client_is_not_stored(learning: Neighbours, valkey: Valkey) -> None:
    async with asked(learning, valkey, IN_TRIAGE, response_format={"type": "json_object"}):
        assert await samples(valkey) == []


async def test_nothing_is_stored_by_default(learning: Neighbours, valkey: Valkey) -> None:
    learning.config.rest_of_tasks["learning"] = {"tasks": ["triage"]}
    async with asked(learning, valkey, IN_TRIAGE):
        assert await samples(valkey) == []


async def test_a_tenant_can_give_and_withdraw_consent(learning: Neighbours, valkey: Valkey) -> None:
    learning.settings |= {"auth": "on"}
    async with register_at(valkey.url) as register:
        key = (await issue(valkey.url, tenant="acme")).credential.text
        async with asked(learning, valkey, IN_TRIAGE, key=key):
            assert await samples(valkey) == []  # anonymous_consent does not apply to tenants with their own setting
        await register.consent("acme", ["triage"])
        async with asked(learning, valkey, IN_TRIAGE, key=key):
            assert [kept["tenant"] for kept in await samples(valkey)] == ["acme"]
        await register.consent("acme", [])
        async with asked(learning, valkey, IN_TRIAGE, key=key):
            assert len(await samples(valkey)) == 1


async def test_a_refused_answer_is_stored_with_its_replacement(learning: Neighbours, valkey: Valkey) -> None:
    learning.config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["triage_adapter", "triage_few_shot"]}},
        "validators": [{"regex": "urgency"}],
        "fallback": [],
    }
    learning.engine.script = lambda body: answer(JSON if "@" in body["model"] else '{"urgency": "low"}')
    async with asked(learning, valkey, IN_TRIAGE):
        (kept,) = await samples(valkey)
    refused, sent = kept["answers"]
    assert (refused["path"], refused["text"]) == ("triage_adapter", JSON)
    assert refused["verdicts"][0][:2] == ["regex", "refused"]
    assert (sent["path"], sent["verdicts"]) == ("triage_few_shot", [["regex", "accepted", ""]])


async def test_stored_samples_are_redacted(learning: Neighbours, valkey: Valkey) -> None:
    learning.settings |= {"redaction": "pointsman_gateway.redaction:redact_common"}
    learning.engine.says(*answer("Write to ann@example.org"))
    async with asked(learning, valkey, f"{IN_TRIAGE}, I am ann@example.org"):
        (kept,) = await samples(valkey)
    assert kept["messages"][0]["content"] == f"{IN_TRIAGE}, I am [email]"
    assert kept["answers"][0]["text"] == "Write to [email]"


async def test_if_the_hook_fails_nothing_is_stored(failing: None, learning: Neighbours, valkey: Valkey) -> None:
    learning.settings |= {"redaction": "failing_hook:redact"}
    async with asked(learning, valkey, IN_TRIAGE):
        assert await samples(valkey) == []


async def test_the_oldest_samples_are_dropped_beyond_the_maximum(valkey: Valkey) -> None:
    async with run_request_log(valkey.url) as harness:
        harness.store.learning = LearningConfig(tasks=("chat",), anonymous_consent=True, max_answers=100)
        for number in range(130):
            made = decision(f"d{number}")
            harness.recorder.note(REQUEST, made, receipt(made), (CompletedAnswer("small_talk", "Hi"),))
        await harness.written()
    kept = [one["decision"] for one in await samples(valkey)]
    assert kept == [f"d{number}" for number in range(30, 130)]


async def test_sampling_is_deterministic_per_decision(valkey: Valkey) -> None:
    async with run_request_log(valkey.url) as harness:
        harness.store.learning = LearningConfig(tasks=("chat",), anonymous_consent=True, share=0.3)
        wanted = [harness.recorder.wants_answers(REQUEST, decision(f"d{number}")) for number in range(1000)]
        assert wanted == [harness.recorder.wants_answers(REQUEST, decision(f"d{number}")) for number in range(1000)]
    assert 250 < sum(wanted) < 350


def test_an_unknown_task_is_rejected_by_name(neighbours: Neighbours) -> None:
    neighbours.config.rest_of_tasks["learning"] = {"tasks": ["triag"]}
    with pytest.raises(ConfigError, match="learning names task 'triag'; did you mean 'triage'"):
        load_config(neighbours.config.write())


async def test_answers_that_are_stored_for_the_console_are_no_samples_without_consent(
    learning: Neighbours, valkey: Valkey
) -> None:
    learning.config.rest_of_tasks["learning"]["anonymous_consent"] = False
    learning.config.rest_of_tasks["request_log"] = {"store_answers": True}
    async with asked(learning, valkey, IN_TRIAGE):
        assert await samples(valkey) == []
        assert [entry["answer"] for entry in await decisions_in(valkey.url)] == [JSON]
