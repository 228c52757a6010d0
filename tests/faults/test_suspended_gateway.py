"""A gateway that is suspended and resumed, as on an overcommitted machine, still reports errors in its APIs'
formats.
"""

import asyncio
import json
from itertools import cycle, islice
from typing import Any

import aiohttp

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.deployment import Deployment

ROUNDS = 6
REQUESTS = 160
SUSPENDED_SECONDS = 1.5
DEADLINES = (0.3, 0.6, 1.0, 1.4)
"""Seconds; all deadlines end while the gateway is suspended or shortly after."""


def message(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 20}


REQUESTED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "auto", **message(IN_CHAT)}),
    ("/v1/chat/completions", {"model": "auto", **message(IN_POLICY), "stream": True}),
    ("/v1/chat/completions", {"model": "auto", **message(IN_POLICY), "n": 2}),
    ("/v1/responses", {"model": "auto", "input": IN_CHAT}),
    ("/v1/responses", {"model": "auto", "input": IN_POLICY, "stream": True}),
    ("/v1/completions", {"model": "auto", "prompt": IN_CHAT}),
    ("/v1/completions", {"model": "auto", "prompt": [IN_CHAT, IN_POLICY]}),
    ("/v1/messages", {"model": "auto", **message(IN_CHAT)}),
    ("/v1/messages", {"model": "auto", **message(IN_POLICY), "stream": True}),
    ("/v1/route", {"model": "auto", **message(IN_POLICY)}),
    ("/v1/embeddings", {"model": "minilm", "input": [IN_CHAT] * 8}),
]


async def test_every_error_of_a_gateway_that_was_suspended_is_json(deployment: Deployment) -> None:
    gateway, wrong, statuses = deployment.gateway, list[str](), set[int]()
    limit = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(gateway.url, timeout=limit, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(path: str, body: dict[str, Any], deadline: float) -> None:
            headers = {"x-request-timeout": f"{deadline:g}"}
            async with session.post(path, json=body, headers=headers) as response:
                text = await response.text()
                statuses.add(response.status)
                if response.status != 200 and not is_error(text):
                    wrong.append(f"{path} {response.status} {text[:200]!r}")

        for number in range(ROUNDS):
            requests = islice(zip(cycle(REQUESTED), cycle(DEADLINES), strict=False), REQUESTS)
            asked = [asyncio.create_task(ask(*request, deadline)) for request, deadline in requests]
            await asyncio.sleep(0.05 + 0.05 * number)  # the moment of the suspension varies
            gateway.hang()
            await asyncio.sleep(SUSPENDED_SECONDS)
            gateway.go_on()
            await asyncio.gather(*asked)
    assert 504 in statuses
    assert wrong == [], gateway.words[-2000:]


def is_error(text: str) -> bool:
    try:
        return bool(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return False
