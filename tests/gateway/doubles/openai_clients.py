"""OpenAI's client, connected to a gateway; and engine events in vLLM's format."""

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
    """Runs `ask` with the synchronous client in a thread."""

    def asking() -> Told:
        with (
            httpx.Client(verify=False) as http,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http) as client,
        ):
            return ask(client)

    return await asyncio.to_thread(asking)


def as_vllm(steps: Sequence[Step], kind: str = "chat.completion.chunk", model: str = "tiny") -> list[Step]:
    """Adds the fields with which vLLM's events begin, so that the gateway can forward the events unchanged."""
    head = {"id": "chatcmpl-engine", "object": kind, "created": 1700000000, "model": model}
    return [{**head, **step} if isinstance(step, dict) else step for step in steps]
