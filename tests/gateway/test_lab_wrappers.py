"""`python -m pointsman_lab wrappers` finds text in the request log that the classifier should not read."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Message, Request
from pointsman_lab.__main__ import main

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.request_logs import RequestLogHarness, decision, routed
from tests.gateway.doubles.valkey import Valkey

KIOSK = "[device 17, {number} requests today]\nThe passenger says: {text}\nReply in one short sentence."
REMINDER = "<system-reminder>The date has changed to day {number}.</system-reminder>"


async def log_texts(harness: RequestLogHarness, config: ConfigFolder) -> list[str]:
    """Logs one request for each example of the task kiosk, with a known client's reminder around the text."""
    texts = [text for rows in config.examples.values() for text, _ in rows]
    for number, text in enumerate(texts):
        made = decision(f"decision {number}")
        content = REMINDER.format(number=number) + KIOSK.format(number=number, text=text)
        request = Request("auto", (Message("system", "Be brief."), Message("user", content)))
        harness.recorder.note(request, made, routed(made))
    await harness.recorder.write()
    return texts


async def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capfd.readouterr()
    code = await asyncio.to_thread(main, ["--json", "wrappers", *arguments])
    output = capfd.readouterr()
    assert code == 0, output.err
    facts: dict[str, Any] = json.loads(output.out)["facts"]
    return facts


async def test_the_entry_that_is_written_makes_the_classifier_read_the_users_words(
    config_folder: ConfigFolder,
    harness: RequestLogHarness,
    valkey: Valkey,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    harness.store.config = RequestLogConfig(store_messages=True)
    texts = await log_texts(harness, config_folder)
    file = tmp_path / "wrappers.yaml"

    facts = await run(capfd, str(config_folder.write()), "--redis", valkey.url, "--write", str(file))

    assert (facts["messages"], facts["without_text"]) == (len(texts), 0)
    [found] = facts["wrappers"]
    assert found["messages"] == len(texts)
    assert found["read"] == texts[:3]
    config_folder.rest_of_tasks |= yaml.safe_load(file.read_text())
    again = await run(capfd, str(config_folder.write()), "--redis", valkey.url)
    assert again["wrappers"] == []


async def test_requests_without_text_are_counted(
    config_folder: ConfigFolder, harness: RequestLogHarness, valkey: Valkey, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = await log_texts(harness, config_folder)

    facts = await run(capfd, str(config_folder.write()), "--redis", valkey.url)

    assert facts == {"messages": 0, "without_text": len(texts), "wrappers": []}


async def test_without_a_request_log_the_error_says_so(
    config_folder: ConfigFolder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_GATEWAY_REDIS_URL", raising=False)
    assert await asyncio.to_thread(main, ["wrappers", str(config_folder.write())]) == 1
    assert "--redis" in capfd.readouterr().err
