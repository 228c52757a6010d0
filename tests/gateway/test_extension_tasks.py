"""The code of an extension runs in an asyncio task, whichever server read the request."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.extensions import (
    Draft,
    Finding,
    GuardedText,
    Guardrail,
    GuardrailContext,
    Hook,
    Strategy,
    StrategyContext,
)

from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Neighbours

PLAIN: dict[str, Any] = {}
"""The body of a request without other fields, which is read in a callback of the connection, outside any task."""
WITH_TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}
"""The body of a request that goes through uvicorn and ASGI, in a task of the server."""


async def give_up() -> str:
    """Waits with a time limit before anything else, and returns what happened."""
    try:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
    except TimeoutError:
        return "gave up in time"
    return "waited for ever"


class TimeLimitedStrategy(Strategy):
    Options = bool

    def __init__(self, options: bool, context: StrategyContext) -> None:
        pass

    async def apply(self, draft: Draft) -> Draft:
        return draft.with_system(await give_up())


class NeedsAnotherModel(Strategy):
    """A strategy that cannot be used, which it only finds out when it gets the real embedding model."""

    Options = bool

    def __init__(self, options: bool, context: StrategyContext) -> None:
        if context.embed is not None:
            raise ValueError("the embedding model has 256 dimensions, and 384 are needed")

    async def apply(self, draft: Draft) -> Draft:
        return draft


class TimeLimitedGuardrail(Guardrail):
    Options = bool

    def __init__(self, options: bool, context: GuardrailContext) -> None:
        pass

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        return [Finding(await give_up(), 0, 0, 1)]


async def answer_to(http: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    return await http.post("/v1/chat/completions", json={"model": "path:small_talk", "messages": messages, **body})


class TestStrategies:
    @pytest.fixture(autouse=True)
    def _strategies(self, neighbours: Neighbours) -> None:
        neighbours.config.paths["small_talk"]["strategies"] = [{f"{__name__}:TimeLimitedStrategy": True}]

    @pytest.mark.parametrize("body", [PLAIN, WITH_TOOLS], ids=["plain", "with_tools"])
    async def test_a_strategy_may_begin_with_a_time_limit(
        self, http: httpx.AsyncClient, engine: ScriptedEngine, body: dict[str, Any]
    ) -> None:
        engine.says(*answer("Hi"))

        reply = await answer_to(http, body)

        assert reply.status_code == 200, reply.text
        assert engine.bodies[-1]["messages"][0] == {"role": "system", "content": "gave up in time"}


async def test_a_strategy_that_refuses_the_embedding_model_is_named_at_the_start(neighbours: Neighbours) -> None:
    neighbours.config.paths["small_talk"]["strategies"] = [{f"{__name__}:NeedsAnotherModel": True}]
    await neighbours.ready()
    with pytest.raises(ConfigError, match=r"paths\.yaml: path 'small_talk': the embedding model has 256 dimensions"):
        async with neighbours.gateway():
            pass


class TestGuardrails:
    @pytest.fixture(autouse=True)
    def _guardrails(self, neighbours: Neighbours) -> None:
        neighbours.config.rest_of_tasks["guardrails"] = [
            {
                "name": "limited",
                "check": {f"{__name__}:TimeLimitedGuardrail": True},
                "action": "redact",
                "hooks": ["request"],
            },
        ]

    @pytest.mark.parametrize("body", [PLAIN, WITH_TOOLS], ids=["plain", "with_tools"])
    async def test_a_guardrail_may_begin_with_a_time_limit(
        self, http: httpx.AsyncClient, engine: ScriptedEngine, body: dict[str, Any]
    ) -> None:
        engine.says(*answer("Hi"))

        reply = await answer_to(http, body)

        assert reply.status_code == 200, reply.text
        assert engine.bodies[-1]["messages"][-1]["content"] == "[gave up in time]ello"
