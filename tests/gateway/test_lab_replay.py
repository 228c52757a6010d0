"""`python -m pointsman_lab replay` reports what a configuration would decide for recorded requests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman.v1.retriever_pb2 import VectorSketchResponse
from pointsman_embedding import MiniLM
from pointsman_gateway.domain import UNKNOWN, Considered, Message, Request
from pointsman_gateway.domain import Path as AnswerPath
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import PendingEntry, to_entry
from pointsman_lab.__main__ import main
from pointsman_lab.redis_log import PAGE_SIZE
from redis.asyncio import Redis

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.library import DOCUMENTS, ON_VOLCANOES, VOLCANOES, write_library
from tests.gateway.doubles.request_logs import decision, decisions_in, receipt, routed
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

Replay = Callable[..., Any]


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    """Configures a gateway whose request log stores texts, with a task whose requests are split between two paths."""
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True}
    neighbours.config.tasks["chat"]["policy"] = {"split": {"small_talk": 1, "safe_start": 1}}
    return neighbours


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[HttpClient]:
    async with open_http_client(gateway) as client:
        yield HttpClient(client)


@pytest.fixture
def replay(
    valkey: Valkey, model_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Replay:
    """Runs the command; returns its exit code, the report's facts and its standard error."""
    monkeypatch.setenv("POINTSMAN_GATEWAY_EMBEDDING_MODEL", str(model_folder))

    async def run(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        arguments = ["--json", "replay", str(folder), "--redis", valkey.url, *options]
        code = await asyncio.to_thread(main, arguments)
        output = capfd.readouterr()
        return code, json.loads(output.out)["facts"] if output.out else {}, output.err

    return run


async def _kept(valkey: Valkey, count: int) -> list[dict[str, Any]]:
    """Waits until the request log has `count` decisions, and returns them."""

    async def look() -> list[dict[str, Any]]:
        entries = await decisions_in(valkey.url)
        return entries if len(entries) == count else []

    return list(await found(look))


async def _a_day(api: HttpClient, valkey: Valkey) -> list[dict[str, Any]]:
    """Sends requests of every kind: classified, by rule, with a named path, adapter and model."""
    await api.ask(IN_TRIAGE)
    await api.ask(IN_POLICY)
    await api.ask(IN_NONE)
    await api.ask("anything at all", metadata={"source": "inbox"})
    for model in ("path:letter", "triage@prod", "tiny"):
        await api.ask(IN_CHAT, model)
    for number in range(8):
        await api.route(IN_CHAT, user=f"user {number}")
    return await _kept(valkey, 15)


@pytest.mark.parametrize("store_messages", [True, False])
async def test_the_same_configuration_changes_nothing(
    store_messages: bool, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    neighbours.config.rest_of_tasks["request_log"]["store_messages"] = store_messages
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        entries = await _a_day(HttpClient(client), valkey)
    assert {entry["path"] for entry in entries if entry["task"] == "chat"} == {"small_talk", "safe_start"}

    code, found, _ = await replay(neighbours.config.folder)

    assert (code, found["decisions"], found["compared"]) == (0, 15, 15)
    assert found["without_text"] == (0 if store_messages else 15)
    assert found["changed"] == 0, found["moves"]
    assert found["on_modified_paths"] == {}
    assert found["cost_per_1000_usd"]["difference"] == 0


async def test_changes_are_counted_shown_and_priced(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    triage, chat = await api.ask(IN_TRIAGE), await api.ask(IN_CHAT, "path:small_talk")
    await api.ask(IN_POLICY)
    await _kept(valkey, 3)
    neighbours.config.tasks["triage"]["policy"] = {"fixed": "small_talk"}

    code, found, _ = await replay(neighbours.config.write())

    assert code == 0
    assert (found["changed"], found["changes"]["path"], found["changes"]["task"]) == (1, 1, 0)
    assert found["moves"] == [
        {"path": "triage_adapter", "new_path": "small_talk", "task": "triage", "new_task": "triage", "requests": 1}
    ]
    [example] = found["examples"]
    assert (example["id"], example["text"]) == (triage.decision_id, IN_TRIAGE)
    cost = found["cost_per_1000_usd"]
    assert cost["difference"] == pytest.approx(1000 * (chat.cost_usd - triage.cost_usd) / 3)
    assert cost["estimated"] == []


async def test_a_path_without_answers_is_priced_by_the_price_list_and_named(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    await api.ask(IN_TRIAGE)
    await _kept(valkey, 1)
    neighbours.config.paths["new"] = {"model": "tiny", "max_tokens": 1000}
    neighbours.config.tasks["triage"]["policy"] = {"fixed": "new"}

    _, found, _ = await replay(neighbours.config.write())

    assert found["cost_per_1000_usd"]["estimated"] == ["new"]
    assert found["cost_per_1000_usd"]["after"] == pytest.approx(1000 * (1000 * 4 + len(IN_TRIAGE) // 4) / 1e6)


async def test_a_path_redefined_under_the_same_name_is_reported(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    await api.ask(IN_POLICY)
    await _kept(valkey, 1)
    neighbours.config.prompts["answer.txt"] = "Answer from the handbook, in one sentence."

    _, found, _ = await replay(neighbours.config.write())

    assert (found["changed"], found["on_modified_paths"]) == (0, {"handbook": 1})


async def test_a_request_for_a_removed_path_would_fail(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    await api.ask(IN_CHAT, "path:letter")
    await api.ask(IN_CHAT, "voice@prod")
    await _kept(valkey, 2)
    del neighbours.config.paths["letter"]

    _, found, _ = await replay(neighbours.config.write())

    assert (found["changed"], found["changes"]["failing"]) == (1, 1)
    [(failure, count)] = found["failures"].items()
    assert failure.startswith("unknown model 'path:letter'; known: ")
    assert count == 1


async def test_too_many_changes_fail_the_command_after_the_report(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    for text in (IN_TRIAGE, IN_POLICY):
        await api.route(text)
    await _kept(valkey, 2)
    neighbours.config.tasks["triage"]["policy"] = {"fixed": "small_talk"}
    folder = neighbours.config.write()

    code, found, errors = await replay(folder, "--fail-if-changed", "0.49")
    assert (code, found["changed_fraction"]) == (1, 0.5)
    assert errors.splitlines()[-1] == "error: 50.0 % of the decisions would change, more than 49.0 %"

    code, _, _ = await replay(folder, "--fail-if-changed", "0.5")
    assert code == 0


async def test_a_new_task_is_detected_only_for_stored_texts(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    await _note(valkey, Request("auto", (Message("user", IN_CHAT),)), decision("kept"), store_messages=True)
    await _note(valkey, Request("auto", (Message("user", IN_CHAT),)), decision("not kept"), store_messages=False)
    config_folder.tasks["greeting"] = config_folder.tasks.pop("chat") | {"examples": "tasks/greeting.jsonl"}
    config_folder.examples["greeting"] = config_folder.examples.pop("chat")

    _, found, _ = await replay(config_folder.write())

    assert (found["decisions"], found["compared"], found["without_text"]) == (2, 1, 1)
    assert found["not_comparable"] == {"task 'chat' is not in this configuration, and the text was not stored": 1}
    [move] = found["moves"]
    assert (move["task"], move["new_task"], move["new_path"]) == ("chat", "greeting", "small_talk")


async def test_a_former_fallback_does_not_count_as_a_change(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    """The replay compares the policy's own choices, not the fallback that was used."""
    adapter, spare = AnswerPath("triage_adapter", "tiny"), AnswerPath("triage_few_shot", "tiny")
    request = Request("auto", (Message("user", IN_TRIAGE),))
    chosen = Considered("triage_adapter", "chosen", "policy:fixed")
    wanted = decision("d1", "triage", adapter, alternatives=(spare,), considered=(chosen,))
    failed_over = wanted.with_fallback("engine_error")
    assert failed_over.path is spare
    await _note(valkey, request, failed_over, store_messages=True)

    _, found, _ = await replay(config_folder.write())

    assert (found["decisions"], found["changed"]) == (1, 0)


async def test_a_fallbacks_expected_cost_is_not_taken_for_that_of_the_path_that_was_chosen(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    adapter, spare = AnswerPath("triage_adapter", "tiny"), AnswerPath("triage_few_shot", "tiny")
    chosen = Considered("triage_adapter", "chosen", "policy:fixed")
    wanted = decision("d1", "triage", adapter, alternatives=(spare,), considered=(chosen,))
    failed_over = replace(wanted.with_fallback("engine_error"), expected_cost_usd=5.0)
    await _note(valkey, Request("auto", (Message("user", IN_TRIAGE),)), failed_over, store_messages=True)

    _, found, _ = await replay(config_folder.write())

    assert found["cost_per_1000_usd"]["estimated"] == ["triage_adapter"]
    assert 0 < found["cost_per_1000_usd"]["before"] < 10


async def test_exactly_the_requested_time_range_is_read(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    request = Request("auto", (Message("user", IN_CHAT),))
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        now, _ = await redis.time()
        for hours, count in ((30, 2), (20, 2 * PAGE_SIZE), (1, 3)):
            for number in range(count):
                made = decision(f"{hours}/{number}")
                entry = to_entry(PendingEntry(0, request, made, routed(made)), store_messages=False)
                await redis.xadd(
                    redis_schema.DECISIONS, {"entry": entry.json}, id=f"{(now - hours * 3600) * 1000}-{number + 1}"
                )
    folder = config_folder.write()

    assert [(await replay(folder, "--since", age))[1]["decisions"] for age in ("30m", "90m", "24h", "2d")] == [
        0, 3, 2 * PAGE_SIZE + 3, 2 * PAGE_SIZE + 5,
    ]  # fmt: skip


async def test_terminal_escape_sequences_in_texts_are_removed(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    text = f"\x1b[2J{IN_CHAT}\x07\n"
    await _note(valkey, Request("auto", (Message("user", text),)), decision("d1", "triage"), store_messages=True)

    _, found, _ = await replay(config_folder.write())

    assert found["examples"][0]["text"] == f"\N{REPLACEMENT CHARACTER}[2J{IN_CHAT}\N{REPLACEMENT CHARACTER}"


async def test_an_abstention_without_its_text_is_kept(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    abstained = decision("d1", UNKNOWN, AnswerPath("safe_start", "tiny"), reason="abstained")
    await _note(valkey, Request("auto", (Message("user", IN_NONE),)), abstained, store_messages=False)
    config_folder.rest_of_tasks["default_path"] = "small_talk"

    _, found, _ = await replay(config_folder.write())

    [move] = found["moves"]
    assert (move["path"], move["new_path"], move["new_task"]) == ("safe_start", "small_talk", UNKNOWN)


async def test_requests_without_a_user_keep_their_recorded_position(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    paths = {(await api.route(IN_CHAT))["path"] for _ in range(24)}
    await _kept(valkey, 24)

    _, found, _ = await replay(neighbours.config.folder)

    assert paths == {"small_talk", "safe_start"}
    assert (found["decisions"], found["changed"], found["redrawn"]) == (24, 0, 0)


async def test_best_value_uses_the_gateways_statistics(
    api: HttpClient, neighbours: Neighbours, valkey: Valkey, replay: Replay
) -> None:
    answers = [await api.ask(IN_CHAT, user=f"user {number}") for number in range(16)]
    await _kept(valkey, 16)
    for answer in answers:
        await api.say(answer.decision_id, rating=float(answer.path == "safe_start"))
    terms = {"paths": ["small_talk", "safe_start"], "quality_floor": 0.5, "min_samples": 1, "exploration_rate": 0}
    neighbours.config.tasks["chat"]["policy"] = {"best_value": terms}

    _, found, _ = await replay(neighbours.config.write())

    assert found["by_evidence"] == 16
    [move] = found["moves"]
    assert (move["path"], move["new_path"]) == ("small_talk", "safe_start")
    assert move["requests"] == sum(answer.path == "small_talk" for answer in answers)


async def test_a_task_that_a_sketch_of_documents_decided_is_kept_and_the_sketch_is_named(
    neighbours: Neighbours, valkey: Valkey, replay: Replay, minilm: MiniLM
) -> None:
    write_library(neighbours.config)
    vectors = np.rint(minilm.embed([*DOCUMENTS.values(), VOLCANOES]) * 127).astype(np.int8).tobytes()
    neighbours.retriever.vector_sketch = VectorSketchResponse(
        checksum="3f9a1c2b00000000", fingerprint=minilm.fingerprint, dimensions=384, vectors=vectors
    )
    neighbours.settings["freshness_seconds"] = 0.05
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)

        async def recognized() -> bool:
            return bool((await api.route(ON_VOLCANOES))["task"] == "library")

        assert await found(recognized)

    async def with_a_recognized_one() -> list[dict[str, Any]]:
        entries = await decisions_in(valkey.url)
        return entries if any(entry["task"] == "library" for entry in entries) else []

    logged = await found(with_a_recognized_one)
    _, facts, _ = await replay(neighbours.config.folder)

    assert (facts["decisions"], facts["changed"]) == (len(logged), 0)
    assert facts["by_sketch"] == {"handbook@3f9a1c2b": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--since", "yesterday"], "'yesterday' is not an age; write 30m, 24h or 7d"),
        (["--redis", "nowhere"], "nowhere"),
    ],
)
async def test_an_error_is_one_line(
    options: list[str], message: str, config_folder: ConfigFolder, replay: Replay
) -> None:
    code, _, errors = await replay(config_folder.write(), *options)

    assert code == 1
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message in line


async def test_an_unavailable_redis_is_reported_without_its_password(
    valkey: Valkey, config_folder: ConfigFolder, replay: Replay
) -> None:
    valkey.kill()
    url = valkey.url.replace("//", "//user:secret@")

    code, _, errors = await replay(config_folder.write(), "--redis", url)

    assert code == 1
    assert f"error: Redis at {valkey.url} does not answer: " in errors
    assert "secret" not in errors


async def _note(valkey: Valkey, request: Request, decided: Any, *, store_messages: bool) -> None:
    entry = to_entry(PendingEntry(0, request, decided, receipt(decided)), store_messages)
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        await redis.xadd(redis_schema.DECISIONS, {"decision": decided.id, "entry": entry.json})
