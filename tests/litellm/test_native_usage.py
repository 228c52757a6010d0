"""Usage that Gemini and Bedrock report in their own formats, read by LiteLLM's SDK, costs what their documentation
says."""

import json
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.http_server import serving

# The SDK reads a deprecated attribute of pydantic's.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")

FLASH = {"prompt": 0.3, "cached": 0.03, "completion": 2.5, "prompt_audio": 1.0}
SONNET = {"prompt": 3.0, "cached": 0.3, "completion": 15.0, "cache_write": 3.75}
GEMINI = {
    # ai.google.dev/gemini-api/docs/thinking and docs/audio, `usageMetadata`; counts made up
    # (100 - 40) x 0.3 + 40 x 0.03 + (10 + 405) x 2.5 = 1056.7 millionths of a dollar
    "thoughts and a cached prompt": (
        {
            "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 10,
            "thoughtsTokenCount": 405, "totalTokenCount": 515,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
        },
        1056.7e-6,
    ),
    # 200 x 0.3 + 800 x 1 + 50 x 2.5 = 985
    "audio": (
        {
            "promptTokenCount": 1000, "candidatesTokenCount": 50, "totalTokenCount": 1050,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 200}, {"modality": "AUDIO", "tokenCount": 800}
            ],
        },
        985e-6,
    ),
}  # fmt: skip
BEDROCK = {
    # docs.aws.amazon.com/bedrock, "ConverseStream", `metadata`: 30 x 3 + 628 x 15 = 9510
    "plain": ({"inputTokens": 30, "outputTokens": 628, "totalTokens": 658}, 9510e-6),
    # "TokenUsage" and "Prompt caching": inputTokens are without those of the cache
    # 4 x 3 + 1000 x 0.3 + 200 x 3.75 + 10 x 15 = 1212
    "a prompt cache": (
        {
            "inputTokens": 4, "outputTokens": 10, "totalTokens": 1214, "cacheReadInputTokens": 1000,
            "cacheWriteInputTokens": 200,
        },
        1212e-6,
    ),
}  # fmt: skip


def gemini_stream(usage: Mapping[str, Any]) -> bytes:
    part = {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP", "index": 0}]
    }
    return (
        b"data: %b\r\n\r\n" % json.dumps({**part, "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}).encode()
    )


def bedrock_stream(usage: Mapping[str, Any]) -> bytes:
    events: list[tuple[str, Mapping[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hi"}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 5}}),
    ]
    return b"".join(_aws_event(name, body) for name, body in events)


def _aws_event(name: str, body: Mapping[str, Any]) -> bytes:
    """Returns a message in AWS's event stream encoding (application/vnd.amazon.eventstream)."""
    named = {":message-type": "event", ":event-type": name, ":content-type": "application/json"}
    headers = b"".join(
        struct.pack("!B", len(key)) + key.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for key, value in named.items()
    )
    payload = json.dumps(body).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


@asynccontextmanager
async def provider(answer: bytes, content_type: str) -> AsyncIterator[str]:
    """Runs a server that answers every request with the same stream; yields its URL."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type=content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serving(app) as url:
        yield url


async def receipt_of(
    neighbours: Neighbours, engine: dict[str, Any], prices: dict[str, float], upstream: str
) -> dict[str, Any]:
    models = neighbours.config.models
    models["models"]["other"] = {"context_window": 10**6, "upstream": upstream, "usd_per_million_tokens": prices}
    models["engines"]["other"] = {"model": "other", **engine}
    models["resilience"] = {"retries": {"max_retries": 0}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        http.timeout = httpx.Timeout(60)
        body = {"model": "other", "messages": [{"role": "user", "content": "Hello"}]}
        answered = await http.post("/v1/chat/completions", json=body)
    assert answered.status_code == 200, answered.text
    receipt: dict[str, Any] = answered.json()["pointsman"]
    return receipt


@pytest.mark.parametrize("name", GEMINI)
async def test_geminis_own_usage_costs_what_is_documented(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    usage, usd = GEMINI[name]
    async with provider(gemini_stream(usage), "text/event-stream") as url:
        engine = {"provider": "litellm/gemini", "url": url, "api_key_env": "GEMINI_API_KEY"}
        receipt = await receipt_of(neighbours, engine, FLASH, "gemini-2.5-flash")
    assert receipt["cost_usd"] == pytest.approx(usd, rel=1e-9)


@pytest.mark.parametrize("name", BEDROCK)
async def test_bedrocks_own_usage_costs_what_is_documented(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in {"ACCESS_KEY_ID": "A", "SECRET_ACCESS_KEY": "s", "REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{variable}", value)
    usage, usd = BEDROCK[name]
    async with provider(bedrock_stream(usage), "application/vnd.amazon.eventstream") as url:
        engine = {"provider": "litellm/bedrock", "url": url}
        receipt = await receipt_of(neighbours, engine, SONNET, "anthropic.claude-3-5-sonnet-20240620-v1:0")
    assert receipt["cost_usd"] == pytest.approx(usd, rel=1e-9)
