"""`python -m pointsman_lab suggest` lists changes that would improve the classifier."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import UNKNOWN, Feedback, Message, Request
from pointsman_lab.__main__ import main

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.request_logs import RequestLogHarness, decision, routed
from tests.gateway.doubles.valkey import Valkey

PASSWORD = [
    "I forgot my password, how can I reset it?",
    "reset my password please",
    "The link to reset my password does not work",
    "I cannot log in, my password has to be changed",
]
ALONE = "SELECT invoice.total FROM invoice INNER JOIN customer USING (customer_id)"

Suggest = Callable[..., Any]


@pytest.fixture
def suggest(model_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Suggest:
    """Runs the command; returns its exit code and the report's facts."""
    monkeypatch.setenv("POINTSMAN_GATEWAY_EMBEDDING_MODEL", str(model_folder))

    async def run(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = await asyncio.to_thread(main, ["--json", "suggest", str(folder), *options])
        output = capfd.readouterr()
        return code, json.loads(output.out)["facts"] if output.out else {"error": output.err}

    return run


async def test_a_misplaced_example_is_reported_with_file_and_line(
    config_folder: ConfigFolder, suggest: Suggest
) -> None:
    config_folder.examples["chat"].insert(2, ("Are bicycles allowed on a train?", None))

    code, facts = await suggest(config_folder.write())

    assert code == 0
    assert facts["request_log"] is None
    [confusion] = [c for c in facts["confusions"] if (c["task"], c["predicted"]) == ("chat", "policy")]
    assert {"text": "Are bicycles allowed on a train?", "task": "chat", "file": "tasks/chat.jsonl", "line": 3} in (
        confusion["worst"]
    )
    [pair] = facts["near_duplicates"]
    assert {(pair[which]["file"], pair[which]["line"]) for which in ("one", "other")} == {
        ("tasks/chat.jsonl", 3),
        ("tasks/policy.jsonl", 1),
    }


async def test_lines_are_counted_as_an_editor_counts_them(config_folder: ConfigFolder, suggest: Suggest) -> None:
    folder = config_folder.write()
    file = folder / "tasks" / "chat.jsonl"
    file.write_text('\n\n{"text": "Are bicycles allowed on a train?"}\n' + file.read_text())

    _, facts = await suggest(folder)

    assert {pair[which]["line"] for pair in facts["near_duplicates"] for which in ("one", "other")} == {1, 3}


async def test_the_request_log_shows_missing_tasks_and_misclassified_requests(
    config_folder: ConfigFolder, harness: RequestLogHarness, valkey: Valkey, tmp_path: Path, suggest: Suggest
) -> None:
    harness.store.config = RequestLogConfig(store_messages=True)
    await _remember(harness)
    file = tmp_path / "proposed.jsonl"

    code, facts = await suggest(config_folder.write(), "--redis", valkey.url, "--write", str(file))

    assert code == 0
    of_log = facts["request_log"]
    assert (of_log["abstained"], of_log["without_text"]) == (6, 0)
    [group] = of_log["groups"]
    assert (group["requests"], group["texts"]) == (5, 4)
    assert set(group["examples"]) < set(PASSWORD)
    assert "password" in group["words"]
    assert [(p["text"], p["task"], p["decided"]) for p in of_log["proposals"]] == [
        (IN_POLICY, "policy", "triage"),
        (IN_CHAT, "smalltalk", "triage"),
    ]
    assert of_log["unknown_tasks"] == ["smalltalk"]
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"text": IN_POLICY, "task": "policy", "decision": "taken for another"},
        {"text": IN_CHAT, "task": "smalltalk", "decision": "of no task that there is"},
    ]


async def test_a_configuration_without_tasks_learns_its_first_ones_from_the_request_log(
    config_folder: ConfigFolder, harness: RequestLogHarness, valkey: Valkey, suggest: Suggest
) -> None:
    harness.store.config = RequestLogConfig(store_messages=True)
    await _remember(harness)
    del config_folder.paths["triage_few_shot"]
    config_folder.tasks = {}

    code, facts = await suggest(config_folder.write(), "--redis", valkey.url)

    assert (code, facts["confusions"], facts["near_duplicates"]) == (0, [], [])
    assert [group["texts"] for group in facts["request_log"]["groups"]] == [4]


async def test_texts_that_were_not_stored_are_only_counted(
    config_folder: ConfigFolder, harness: RequestLogHarness, valkey: Valkey, suggest: Suggest
) -> None:
    await _remember(harness)

    _, facts = await suggest(config_folder.write(), "--redis", valkey.url)

    of_log = facts["request_log"]
    assert (of_log["abstained"], of_log["without_text"], of_log["corrections_without_text"]) == (6, 6, 2)
    assert (of_log["groups"], of_log["proposals"]) == ([], [])


async def _remember(harness: RequestLogHarness) -> None:
    """Logs six requests on which the classifier abstained, and three for which feedback states the task."""
    for number, text in enumerate([*PASSWORD, PASSWORD[0], ALONE]):
        abstained = decision(f"abstained {number}", UNKNOWN, reason="abstained")
        harness.recorder.note(_request(text), abstained, routed(abstained))
    texts = {
        "taken for another": (IN_POLICY, "policy"),
        "of no task that there is": (IN_CHAT, "smalltalk"),
        "well decided": (IN_TRIAGE, "triage"),
    }
    for name, (text, _) in texts.items():
        made = decision(name, "triage")
        harness.recorder.note(_request(text), made, routed(made))
    await harness.recorder.write()
    for name, (_, task) in texts.items():
        assert await harness.store.add_feedback(Feedback(name, name, right_task=task), 1, "c") == "stored"


def _request(text: str) -> Request:
    return Request("auto", (Message("user", text),))
