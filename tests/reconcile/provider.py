"""A double of two providers' APIs, which records in a ledger what it has generated and what that costs.

It shares no code with the gateway. A request's text states its time in the simulation ("at 12345.5 ") and what happens
to it: "[busy]" (the first key gets 503), "[stop N]" (it generates N tokens and then waits), "[break N]" (the connection
breaks after N tokens). Everything else is random, seeded with the text.

One token of an OpenAI prompt is four characters, as the gateway estimates it if an answer is cut off: with another
tokenizer the costs of answers that were cut off would differ, as with real providers.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web

from tests.gateway.doubles.http_server import serving

KEYS = {"Bearer sk-one": "key_one", "Bearer sk-two": "key_two", "sk-ant-three": "apikey_three"}
"""By the header with a provider's key, the key's id."""
SOL, OPUS = "gpt-sol-2026-08-06", "claude-opus-20260805"
"""The names of the models in the providers' exports."""
LONG_PROMPT = 2000
"""Number of tokens above which all tokens of a prompt have other prices."""
PRICES: Mapping[tuple[str, str, bool], Mapping[str, Decimal]] = {
    (SOL, "", False): {
        "input": Decimal("2.5"), "cached": Decimal("0.25"), "write": Decimal("3.125"), "output": Decimal("15")},
    (SOL, "", True): {
        "input": Decimal("5"), "cached": Decimal("0.5"), "write": Decimal("6.25"), "output": Decimal("22.5")},
    (SOL, "flex", False): {
        "input": Decimal("1.25"), "cached": Decimal("0.13"), "write": Decimal("1.5625"), "output": Decimal("7.5")},
    (SOL, "flex", True): {
        "input": Decimal("2.5"), "cached": Decimal("0.25"), "write": Decimal("3.125"), "output": Decimal("11.25")},
    (OPUS, "", False): {
        "input": Decimal("5"), "cached": Decimal("0.5"), "write": Decimal("6.25"), "write_1h": Decimal("10"),
        "output": Decimal("25")},
    (OPUS, "", True): {
        "input": Decimal("10"), "cached": Decimal("1"), "write": Decimal("12.5"), "write_1h": Decimal("20"),
        "output": Decimal("37.5")},
    (OPUS, "priority", False): {
        "input": Decimal("6"), "cached": Decimal("0.6"), "write": Decimal("7.5"), "write_1h": Decimal("12"),
        "output": Decimal("30")},
    (OPUS, "priority", True): {
        "input": Decimal("12"), "cached": Decimal("1.2"), "write": Decimal("15"), "write_1h": Decimal("24"),
        "output": Decimal("45")},
}  # fmt: skip
"""Dollars per million tokens, by model, service tier, and whether the prompt is long."""

_AT = re.compile(r"at (\d+(?:\.\d+)?) ")
_STOP, _BREAK = (re.compile(rf"\[{word} (\d+)\]") for word in ("stop", "break"))


@dataclass(frozen=True)
class Sold:
    """One answer, as the provider has generated it."""

    at: float
    """The time of the answer in the simulation, in Unix seconds."""
    key: str
    model: str
    tier: str
    tokens: Mapping[str, int]
    """Numbers of tokens by kind: "input", "cached", "write", "write_1h" and "output". Each token has one kind."""

    @property
    def dollars(self) -> Mapping[str, Decimal]:
        is_long = sum(tokens for kind, tokens in self.tokens.items() if kind != "output") > LONG_PROMPT
        prices = PRICES[self.model, self.tier, is_long]
        return {kind: tokens * prices[kind] / 10**6 for kind, tokens in self.tokens.items()}


@dataclass
class Wishes:
    """How the double shall treat one request."""

    text: str
    at: float = 0.0
    draw: random.Random = field(default_factory=random.Random)
    is_busy: bool = False
    stop_after: int | None = None
    break_after: int | None = None

    def __post_init__(self) -> None:
        found = _AT.search(self.text)
        assert found is not None
        self.at, self.draw = float(found[1]), random.Random(self.text)
        self.is_busy = "[busy]" in self.text
        stop, broken = _STOP.search(self.text), _BREAK.search(self.text)
        self.stop_after = int(stop[1]) if stop else None
        self.break_after = int(broken[1]) if broken else None

    @property
    def cut_after(self) -> int | None:
        return self.stop_after if self.stop_after is not None else self.break_after


class Provider:
    def __init__(self) -> None:
        self.url = ""
        self.ledger: list[Sold] = []
        self.refused = 0

    async def openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = KEYS[request.headers["authorization"]]
        contents = [message["content"] for message in body["messages"]]
        wishes = Wishes(contents[-1])
        if wishes.is_busy and key == "key_one":
            self.refused += 1
            return web.json_response({"error": {"message": "overloaded"}}, status=503)
        prompt = sum(map(len, contents)) // 4
        cut = wishes.cut_after
        cached, written, reasoning = 0, 0, 0
        if cut is None:
            cached = prompt * wishes.draw.choice([0, 0, 50, 80]) // 100
            written = (prompt - cached) * wishes.draw.choice([0, 0, 60]) // 100
            reasoning = wishes.draw.choice([0, 0, 40, 400])
        words = _words(wishes) if cut is None else ["go"] * cut
        tier = "flex" if body.get("service_tier") == "flex" else ""
        tokens = {
            "input": prompt - cached - written, "cached": cached, "write": written, "output": len(words) + reasoning,
        }  # fmt: skip
        usage = {
            "prompt_tokens": prompt, "completion_tokens": len(words) + reasoning,
            "total_tokens": prompt + len(words) + reasoning,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
        }  # fmt: skip
        events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
        events += [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
        if cut is None:
            events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            events.append({"choices": [], "usage": usage, "service_tier": tier or "default"})  # type: ignore[dict-item]
        pieces = [b"data: %b\n\n" % json.dumps(event).encode() for event in events]
        sold = Sold(wishes.at, key, SOL, tier, tokens)
        return await self._send(request, wishes, [*pieces, *([] if cut is not None else [b"data: [DONE]\n\n"])], sold)

    async def anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = KEYS[request.headers["x-api-key"]]
        wishes = Wishes("".join(block["text"] for block in body["messages"][-1]["content"]))
        draw, size = wishes.draw, len(wishes.text) // 3
        cached, five, hour = (draw.choice(of) for of in ([0, 0, size], [0, 0, size // 2], [0, 0, 0, size // 3]))
        words = _words(wishes) if wishes.cut_after is None else ["go"] * wishes.cut_after
        tier = draw.choice(["", "", "", "priority"])
        tokens = {"input": size, "cached": cached, "write": five, "write_1h": hour, "output": len(words)}
        usage = {
            "input_tokens": size, "cache_read_input_tokens": cached, "cache_creation_input_tokens": five + hour,
            "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
            "output_tokens": 1, "service_tier": tier or "standard",
        }  # fmt: skip
        message = {"id": "msg", "type": "message", "role": "assistant", "content": [], "model": body["model"]}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": {**message, "usage": usage}}]
        events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        for word in words:
            delta = {"type": "text_delta", "text": word}
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        if wishes.cut_after is None:
            events.append({"type": "content_block_stop", "index": 0})
            stop = {"stop_reason": "end_turn", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": len(words)}})
            events.append({"type": "message_stop"})
        pieces = [b"event: %b\ndata: %b\n\n" % (of["type"].encode(), json.dumps(of).encode()) for of in events]
        return await self._send(request, wishes, pieces, Sold(wishes.at, key, OPUS, tier, tokens))

    async def _send(self, request: web.Request, wishes: Wishes, pieces: list[bytes], sold: Sold) -> web.StreamResponse:
        self.ledger.append(sold)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"".join(pieces))
        if wishes.stop_after is not None:
            await asyncio.Event().wait()  # until the client leaves
        if wishes.break_after is not None:
            assert request.transport is not None
            request.transport.close()
        return response


def _words(wishes: Wishes) -> list[str]:
    """Returns the tokens of an answer. Some answers are not valid JSON, so that a validator rejects them."""
    answer = wishes.draw.choice(['{"urgency": "low"}', '{"intent": "refund"}'])
    return [*answer.split(" "), *[" "] * wishes.draw.randrange(6)]


@asynccontextmanager
async def running_provider() -> AsyncIterator[Provider]:
    double = Provider()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", double.openai)
    app.router.add_post("/v1/messages", double.anthropic)
    async with serving(app, handler_cancellation=True, shutdown_timeout=0.1) as double.url:
        yield double


def per_day(ledger: list[Sold], first: float, days: int) -> Iterator[tuple[float, list[Sold]]]:
    for day in range(days):
        begin = first + day * 86400
        yield begin, [sold for sold in ledger if begin <= sold.at < begin + 86400]
