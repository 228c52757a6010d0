"""Sends 10,000 requests through a real gateway to the providers' double, and keeps receipts and exports.

Ten days are simulated in seconds of real time. Each request has a time in the simulation: its text states it for the
provider, and its metadata for the receipt, whose time is then replaced by it.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pointsman_gateway.config.load import Config, load_config

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import running_engine
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.lora_server import running_lora_server
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.retriever import running_retriever
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found
from tests.reconcile.invoices import write_exports
from tests.reconcile.provider import Sold, running_provider

REQUESTS, AT_ONCE = int(os.environ.get("RECONCILE_REQUESTS", "10000")), 24
DAYS = 10
FIRST = time.time() // 86400 * 86400 - (DAYS + 2) * 86400
"""Unix seconds at which the simulation begins."""
WORDS = "Please sort this message about a lost umbrella on the evening train to the coast and answer in JSON. "
SCHEMA = {"type": "object", "required": ["urgency"]}
SOL = {
    "prompt": 2.5, "cached": 0.25, "completion": 15, "cache_write": 3.125,
    "long_prompts": [{"above": 2000, "prompt": 5, "cached": 0.5, "completion": 22.5, "cache_write": 6.25}],
}  # fmt: skip
SOL_FLEX = {
    "prompt": 1.25, "cached": 0.13, "completion": 7.5, "cache_write": 1.5625,
    "long_prompts": [{"above": 2000, "prompt": 2.5, "cached": 0.25, "completion": 11.25, "cache_write": 3.125}],
}  # fmt: skip
OPUS = {
    "prompt": 5, "cached": 0.5, "completion": 25, "cache_write": 6.25, "cache_write_1h": 10,
    "long_prompts": [
        {"above": 2000, "prompt": 10, "cached": 1, "completion": 37.5, "cache_write": 12.5, "cache_write_1h": 20}
    ],
}  # fmt: skip
OPUS_PRIORITY = {
    "prompt": 6, "cached": 0.6, "completion": 30, "cache_write": 7.5, "cache_write_1h": 12,
    "long_prompts": [
        {"above": 2000, "prompt": 12, "cached": 1.2, "completion": 45, "cache_write": 15, "cache_write_1h": 24}
    ],
}  # fmt: skip
KEYS = {"key_one": "openai_one", "key_two": "openai_two", "apikey_three": "claude"}
"""By the provider's id of a key, the engine of ours that uses the key."""


@dataclass(frozen=True)
class Simulated:
    config: Config
    exports: dict[str, Path]
    entries: list[dict[str, Any]]
    """The entries of the request log, with the times of the simulation."""
    ledger: list[Sold]
    refused: int
    """Number of requests that the provider rejected because it was busy."""


async def simulate(folder: Path, model_folder: Path) -> Simulated:
    os.environ.update({"ONE": "sk-one", "TWO": "sk-two", "THREE": "sk-ant-three"})
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(running_provider())
        valkey = await stack.enter_async_context(running_valkey(folder / "valkey"))
        neighbours = Neighbours(
            await stack.enter_async_context(running_engine()),
            await stack.enter_async_context(running_lora_server()),
            await stack.enter_async_context(running_retriever()),
            ConfigFolder(folder / "config"),
            {"embedding_model": model_folder, "redis_url": valkey.url, "wal_dir": folder / "wal"},
        )
        configure(neighbours.config, provider.url)
        await neighbours.ready()
        gateway = await stack.enter_async_context(neighbours.gateway())
        async with aiohttp.ClientSession(gateway.url, timeout=aiohttp.ClientTimeout(120)) as http:
            await send_all(http)
        await gateway.components.pipeline.admission.wait_until_empty(30)

        async def look() -> list[dict[str, Any]] | None:
            receipts = await receipts_in(valkey.url)
            return list(receipts.decided) if len(receipts.decided) == REQUESTS else None

        entries = await found(look, within=60)
        assert entries is not None
        for entry in entries:
            entry["unix_ms"] = float(entry["metadata"]["at"]) * 1000
        exports = write_exports(provider.ledger, FIRST, DAYS, folder)
        config = load_config(neighbours.config.folder)
        return Simulated(config, exports, entries, provider.ledger, provider.refused)


def configure(config: ConfigFolder, url: str) -> None:
    config.models["models"] |= {
        "sol": {
            "upstream": "gpt-sol", "context_window": 100_000, "usd_per_million_tokens": SOL,
            "service_tiers": {"flex": SOL_FLEX}, "fallback": ["opus"],
        },
        "opus": {
            "upstream": "claude-opus", "context_window": 100_000, "usd_per_million_tokens": OPUS,
            "service_tiers": {"priority": OPUS_PRIORITY},
        },
    }  # fmt: skip
    config.models["engines"] |= {
        "openai_one": {"model": "sol", "provider": "openai", "url": url, "api_key_env": "ONE"},
        "openai_two": {"model": "sol", "provider": "openai", "url": url, "api_key_env": "TWO"},
        "claude": {"model": "opus", "provider": "anthropic", "url": url, "api_key_env": "THREE"},
    }
    config.models["resilience"] = {
        "breaker": {"enabled": False}, "retries": {"budget_ratio": 1, "min_retries": 10**6, "backoff_seconds": 0.001},
    }  # fmt: skip
    prompt = [{"zero_shot": {"prompt": "triage.txt"}}]
    config.paths |= {"small": {"model": "sol", "strategies": prompt}, "large": {"model": "opus", "strategies": prompt}}
    config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["small", "large"]}}, "fallback": [], "validators": [{"json_schema": SCHEMA}],
    }  # fmt: skip


async def send_all(http: aiohttp.ClientSession) -> None:
    draw = random.Random(13)
    bodies = iter([request(draw) for _ in range(REQUESTS)])

    async def worker() -> None:
        for body, stop_after in bodies:
            await send(http, body, stop_after)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def request(draw: random.Random) -> tuple[dict[str, Any], int | None]:
    """Returns a request body, and the number of pieces of the answer after which the client disconnects (None:
    never).
    """
    at = FIRST + draw.random() * DAYS * 86400 * 0.99999
    length = draw.choice([1, 1, 2, 3, 5, 8, 100])
    text, stop_after = f"at {at:.3f} " + WORDS * length, None
    metadata = {"at": f"{at:.3f}"}
    sort = draw.random()
    model = draw.choice(["sol", "sol", "opus"])
    if sort < 0.05:
        stop_after = draw.randrange(1, 9)
        text += f"[stop {stop_after}]"
    elif sort < 0.08:
        text += f"[break {draw.randrange(1, 9)}]"
    elif sort < 0.16:
        text += "[busy]"
    elif sort < 0.26:
        model, metadata = "auto", {**metadata, "source": "inbox"}  # which may be escalated
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "metadata": metadata}
    if draw.random() < 0.2:
        body["service_tier"] = "flex"
    if stop_after is not None or draw.random() < 0.5:
        body["stream"] = True
    return body, stop_after


async def send(http: aiohttp.ClientSession, body: dict[str, Any], stop_after: int | None) -> None:
    with suppress(aiohttp.ClientError):
        async with http.post("/v1/chat/completions", json=body) as response:
            async for piece in pieces(response):
                if stop_after is not None and piece == stop_after:
                    return


async def pieces(response: aiohttp.ClientResponse) -> AsyncIterator[int]:
    """Yields the number of pieces with text that have arrived so far, after each of them."""
    arrived = 0
    async for line in response.content:
        if b'"content":"go"' in line.replace(b" ", b""):
            arrived += 1
            yield arrived
