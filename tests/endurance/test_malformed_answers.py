"""The scripted engine answers in both dialects, and sends malformed events from the time it is told to until it is told
to stop."""

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.endurance.alerts import ALERTS, HARMLESS, METRICS
from tests.endurance.schedule import FAULTS
from tests.gateway.doubles.http_server import serving
from tests.lora_server.fake_engine import MALFORMED_CHUNKS, MALFORMED_MESSAGE_EVENTS, Engine

ANSWERS = {"/v1/chat/completions": MALFORMED_CHUNKS, "/v1/messages": MALFORMED_MESSAGE_EVENTS}


@asynccontextmanager
async def open_engine() -> AsyncIterator[aiohttp.ClientSession]:
    engine = Engine(argparse.Namespace(base="tiny", slots=1, max_rank=8, start_file=None, answer_seconds=0.0), "", "")
    async with serving(engine.app()) as url, aiohttp.ClientSession(url) as session:
        yield session


async def events(session: aiohttp.ClientSession, path: str) -> list[Any]:
    body = {"model": "tiny", "max_tokens": 3, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    async with session.post(path, json=body) as response:
        lines = (await response.text()).splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


@pytest.mark.parametrize("path", ANSWERS)
async def test_answers_are_malformed_while_the_engine_is_asked_to(path: str) -> None:
    async with open_engine() as session:
        right = await events(session, path)
        await session.post("/malform", json={"on": True})
        wrong = [await events(session, path) for _ in ANSWERS[path]]
        await session.post("/malform", json={"on": False})
        again = await events(session, path)

    sent = [[event for event in answer if event in ANSWERS[path]] for answer in wrong]
    assert sent == [[event] for event in ANSWERS[path]]
    assert not [event for event in right + again if event in ANSWERS[path]]


def test_every_fault_is_visible_or_harmless() -> None:
    known = {kind if kind in ALERTS else target for kind, target in FAULTS if kind not in HARMLESS}
    assert known <= ALERTS.keys() & METRICS.keys()
