"""Receipts, counters and the usage of keys agree to the last picodollar (1e-12 dollars) under random requests."""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.domain import PICODOLLARS
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, Refusal, Step, answer, beginning
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.receipts import Receipts, receipts_in
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

REQUESTS, AT_ONCE = 2000, 32
TEXTS = (IN_CHAT, IN_POLICY, IN_TRIAGE, "Hello there, how is the weather", "SELECT 1 FROM x")
MODELS = ("auto", "auto", "auto", "auto", "tiny", "path:handbook", "path:letter", "triage@prod", "junk")


@pytest.fixture
async def gateway(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Runs a gateway with keys, a cache, an hourly engine price, training costs, and prices that do not divide
    evenly.
    """
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal", "max_in_flight": 24}
    neighbours.settings |= {"queue_size": 4, "queue_timeout": 0.2}
    config = neighbours.config
    config.models["models"]["tiny"]["usd_per_million_tokens"] = {
        "prompt": 0.0137,
        "cached": 0.0021,
        "completion": 0.0623,
    }
    config.models["retrieval"] = {"usd_per_search": 2.3e-7, "usd_per_embedding": 1.7e-8}
    config.models["training"] = {"usd_per_hour": 0.043, "expected_requests": 10_007, "expected_days": 30}
    config.models["engines"]["local"]["usd_per_hour"] = 0.043
    config.models["cache"] = {"usd_per_hit": 1.3e-8}
    config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.0019}}
    config.models["rerankers"] = {
        "own": {"retriever": True, "usd_per_million_tokens": 0.0023, "usd_per_search": 1.9e-6}
    }
    config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    config.paths["handbook"] |= {"temperature": 0, "cache": {}}
    config.rest_of_tasks["request_log"] = {"max_undecided": REQUESTS}
    aliases = {"triage@prod": TRIAGE, "voice@prod": VOICE}
    await neighbours.lora_server.say(
        READY, url=neighbours.engine.url, resident=[TRIAGE, VOICE], aliases=aliases, training_seconds={TRIAGE: 552.0}
    )
    async with neighbours.gateway() as gateway:
        yield gateway


@dataclass
class Chance:
    """Decides at random how the engine and the callers behave."""

    draw: random.Random = field(default_factory=lambda: random.Random(11))

    def engine(self, body: Any) -> Any:
        pieces = [f"{n} " for n in range(self.draw.randrange(1, 9))]
        sort = self.draw.random()
        if sort < 0.08:
            return Refusal(self.draw.choice([400, 429, 500, 503]), {"error": {"message": "not now"}})
        if sort < 0.14:
            return [*beginning(*pieces), BREAK]
        if sort < 0.20:
            return [*beginning(*pieces), *self.pauses(20)]
        prompt = self.draw.randrange(10, 900)
        return answer(*pieces, prompt_tokens=prompt, cached_tokens=self.draw.randrange(prompt))

    def pauses(self, count: int) -> list[Step]:
        """Returns a slow answer, during which callers disconnect."""
        return [step for _ in range(count) for step in (b": wait\n\n", beginning("x")[1])]


@dataclass
class Client:
    """A client that sends one random request, and returns its id if the answer was complete."""

    http: httpx.AsyncClient
    stub: gateway_pb2_grpc.GatewayStub
    keys: list[str]
    draw: random.Random
    received: list[str] = field(default_factory=list)

    async def ask(self, number: int) -> None:
        name = f"request-{number}"
        way = self.draw.choice([self.chat, self.chat, self.stream, self.stream, self.grpc, self.once, self.other])
        asking = asyncio.create_task(way(name, self.draw.choice(self.keys)))
        patience = self.draw.choice([None, None, None, None, self.draw.random() * 0.05])
        with suppress(TimeoutError, asyncio.CancelledError, httpx.HTTPError, grpc.aio.AioRpcError):
            await asyncio.wait_for(asking, patience)
            self.received.append(name)

    def body(self, **more: Any) -> dict[str, Any]:
        text = self.draw.choice(TEXTS)
        return {"model": self.draw.choice(MODELS), "messages": [{"role": "user", "content": text}], **more}

    def headers(self, name: str, key: str) -> dict[str, str]:
        return {"x-request-id": name, "authorization": f"Bearer {key}"}

    async def chat(self, name: str, key: str) -> None:
        await self.http.post("/v1/chat/completions", json=self.body(), headers=self.headers(name, key))

    async def stream(self, name: str, key: str) -> None:
        asked = self.http.stream(
            "POST", "/v1/chat/completions", json=self.body(stream=True), headers=self.headers(name, key)
        )
        async with asked as response:
            async for _ in response.aiter_bytes():
                pass

    def message(self) -> pb.GenerateRequest:
        body = self.body()
        return pb.GenerateRequest(model=body["model"], messages=[pb.Message(**body["messages"][0])])

    async def grpc(self, name: str, key: str) -> None:
        call = self.stub.GenerateStream(self.message(), metadata=tuple(self.headers(name, key).items()))
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()

    async def once(self, name: str, key: str) -> None:
        with suppress(grpc.aio.AioRpcError):
            await self.stub.Generate(self.message(), metadata=tuple(self.headers(name, key).items()))

    async def other(self, name: str, key: str) -> None:
        shown = self.headers(name, key)
        match self.draw.randrange(6):
            case 0:
                await self.http.post("/v1/route", json=self.body(), headers=shown)
            case 1:
                model = self.draw.choice(["minilm", "minilm", "junk"])
                await self.http.post("/v1/embeddings", json={"model": model, "input": "a train"}, headers=shown)
            case 2:
                await self.http.post("/v1/chat/completions", content=b"{", headers=shown)
            case 3:
                await self.http.post("/v1/completions", json={"model": "auto", "prompt": IN_CHAT}, headers=shown)
            case 4:
                asked = {"model": self.draw.choice(["own", "junk"]), "query": "trains", "documents": TEXTS}
                await self.http.post("/v1/rerank", json=asked, headers=shown)
            case 5:
                await self.http.post("/v1/responses", json={"model": "auto", "input": IN_POLICY}, headers=shown)


async def test_receipts_counters_and_usage_agree_exactly_over_a_mixed_load(
    gateway: Gateway, neighbours: Neighbours, valkey: Valkey
) -> None:
    chance = Chance()
    neighbours.engine.script = chance.engine
    few = Limits(requests_per_minute=40, tokens_per_minute=30_000, dollars_per_day=0.5)
    issued = [await issue(valkey.url, limits) for limits in (Limits(), Limits(), few)]
    secrets = [one.credential.text for one in issued]
    keys = [*secrets * 6, f"pm_{'A' * 8}_{'b' * 32}", ""]  # sometimes an unknown one, or none
    async with (
        httpx.AsyncClient(
            base_url=gateway.url, verify=False, timeout=30, limits=httpx.Limits(max_connections=AT_ONCE)
        ) as http,
        open_channel(gateway.grpc_address) as channel,
    ):
        client = Client(http, gateway_pb2_grpc.GatewayStub(channel), keys, chance.draw)
        await in_turns(client.ask, REQUESTS)
    receipts = await all_written(gateway, valkey)

    ids = Counter(one["request_id"] for one in receipts.all)
    assert [name for name, count in ids.items() if count > 1] == []
    assert set(client.received) - ids.keys() == set()
    outcomes = {one["outcome"] for one in receipts.all}
    assert {"ok", "routed", "cancelled", "engine_error", "engine_unavailable", "unknown_key"} <= outcomes
    assert {"unknown_model", "bad_json", "missing_key", "requests_per_minute"} <= outcomes
    assert len(client.received) > REQUESTS / 2

    assert counters_of(gateway) == counters_by(receipts)
    assert await usage_of(valkey) == usage_by(receipts, [one.record.id for one in issued])


async def in_turns(ask: Callable[[int], Any], count: int) -> None:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await ask(number)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def all_written(gateway: Gateway, valkey: Valkey) -> Receipts:
    """Waits until no request is in progress and Redis has all data; returns the receipts."""
    await gateway.components.pipeline.admission.wait_until_empty(30)

    async def look() -> Receipts | None:
        receipts = await receipts_in(valkey.url)
        total = sum(gateway.metric(f"pointsman_{name}_total") for name in COUNTED)
        usage = gateway.components.tenancy.usage  # type: ignore[union-attr]  # keys are on
        return receipts if total == len(receipts.all) and not usage.waiting else None

    receipts = await found(look, within=30)
    assert receipts is not None
    return receipts


COUNTED = ("requests", "route_requests", "rejected", "embedding_requests", "rerank_requests")
TOKENS = ("prompt", "cached", "completion", "replayed", "embedded")
Sums = dict[str, Counter[Any]]


def counters_of(gateway: Gateway) -> Sums:
    """Returns the values of the counters at /metrics."""
    sums: Sums = {name: Counter() for name in ("requests", "tokens", "picodollars")}
    samples = [s for family in gateway.components.registry.collect() for s in family.samples if s.value]
    for sample in samples:
        labels, value = sample.labels, sample.value
        match sample.name:
            case "pointsman_requests_total":
                sums["requests"][labels["path"], labels["outcome"], labels["fault"]] += int(value)
            case "pointsman_route_requests_total":
                sums["requests"][labels["path"], "routed", "none"] += int(value)
            case "pointsman_rejected_total":
                sums["requests"]["", labels["code"], labels["fault"]] += int(value)
            case "pointsman_embedding_requests_total" | "pointsman_rerank_requests_total":
                sums["requests"]["", labels["outcome"], labels["fault"]] += int(value)
            case "pointsman_tokens_total":
                sums["tokens"][labels["type"]] += int(value)
            case "pointsman_embedding_tokens_total" | "pointsman_rerank_tokens_total":
                sums["tokens"]["embedded"] += int(value)
            case "pointsman_cost_usd_total":
                sums["picodollars"][labels["component"]] += round(value * PICODOLLARS)
            case "pointsman_embedding_cost_usd_total":
                sums["picodollars"]["embedding"] += round(value * PICODOLLARS)
            case "pointsman_rerank_cost_usd_total":
                sums["picodollars"]["rerank"] += round(value * PICODOLLARS)
    return sums


def counters_by(receipts: Receipts) -> Sums:
    """Computes the counters' values from the receipts only."""
    requests: Counter[Any] = Counter()
    tokens: Counter[Any] = Counter()
    for one in receipts.all:
        path = one.get("path", "")
        path = path if not path.startswith("adapter:") else "other"
        requests[path, one["outcome"], one["fault"]] += 1
        usage = one["usage"]
        if one.get("operation") in ("embeddings", "rerank"):
            tokens["embedded"] += usage["prompt_tokens"]
        elif one.get("cached"):
            tokens["replayed"] += usage["prompt_tokens"] + usage["completion_tokens"]
        else:
            tokens["prompt"] += usage["prompt_tokens"] - usage["cached_tokens"]
            tokens["cached"] += usage["cached_tokens"]
            tokens["completion"] += usage["completion_tokens"]
    return {"requests": requests, "tokens": tokens, "picodollars": +receipts.picodollars()}


async def usage_of(valkey: Valkey) -> dict[str, dict[str, int]]:
    """Returns the values of `pointsman keys usage`, by key."""
    program = [sys.executable, "-m", "pointsman_cli", "keys", "usage", "--json", "--redis", valkey.url]
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    used = {}
    for row in json.loads(out):
        if row["key"]:
            dollars = row["month"].pop("dollars")
            assert round(dollars * PICODOLLARS) == row["month"]["picodollars"]
            used[row["key"]["id"]] = {name: count for name, count in row["month"].items() if count}
    return used


def usage_by(receipts: Receipts, keys: list[str]) -> dict[str, dict[str, int]]:
    """Computes each key's usage from the receipts only."""
    used: dict[str, Counter[str]] = {key: Counter() for key in keys}
    for one in receipts.all:
        if not one.get("counted", True):
            continue
        counts = used[one["key"]]
        counts["requests"] += 1
        counts["cancelled"] += one["outcome"] == "cancelled"
        counts["failed"] += one["outcome"] not in ("ok", "routed", "cancelled")
        counts.update(one["usage"])
        counts["picodollars"] += sum(round(usd * PICODOLLARS) for usd in one["cost_parts_usd"].values())
    return {key: dict(+counts) for key, counts in used.items()}
