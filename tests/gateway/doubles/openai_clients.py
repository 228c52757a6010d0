"""OpenAI's own client, pointed at a gateway, and engines' events as vLLM words them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import openai

from tests.gateway.doubles.engine import Step
from tests.gateway.doubles.gateway import Gateway, open_http_client

Told = TypeVar("Told")


@asynccontextmanager
async def opening_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=open_http_client(gateway)
    ) as client:
        yield client


async def in_a_thread(gateway: Gateway, ask: Callable[[openai.OpenAI], Told]) -> Told:
    """What `ask` gets with the synchronous client."""

    def asking() -> Told:
        with (
            httpx.Client(verify=False) as http,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http) as client,
        ):
            return ask(client)

    return await asyncio.to_thread(asking)


def as_vllm(steps: Sequence[Step], kind: str = "chat.completion.chunk", model: str = "tiny") -> list[Step]:
    """The same events with what vLLM writes before them: then they can be sent on as they are."""
    head = {"id": "chatcmpl-engine", "object": kind, "created": 1700000000, "model": model}
    return [{**head, **step} if isinstance(step, dict) else step for step in steps]
