"""Creates state of every kind in running services, and reads all of it for a comparison."""

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import aiohttp
from pointsman.v1 import lora_server_pb2 as lora_pb
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_gateway.domain import PICODOLLARS
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import dollars
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.request_logs import feedback_in
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.waiting import found
from tests.lora_server.tiny_adapters import good_tensors, write_adapter
from tests.security.target import Services

TENANT = "acme"
LIMITS = Limits(requests_per_minute=1000, dollars_per_month=100.0)
PATIENCE = 60.0
RECORDS = int(os.environ.get("RESTORE_RECORDS", "0"))
"""Further records in Redis, of the size of receipts."""
RECORD_BYTES = 900
DOCUMENTS = int(os.environ.get("RESTORE_DOCUMENTS", "0"))
"""Further documents of WORDS words."""
WORDS = 1_000
BATCH = 100
PASSING = (":account:", ":engines", ":gateways")
"""Parts of the names of Redis keys that running services rewrite continually."""


async def make_state(services: Services) -> str:
    """Creates keys, adapters, documents of two tenants, receipts, usage and feedback; returns a key."""
    issued = await issue(services.valkey.url, LIMITS, tenant=TENANT)
    key = issued.credential.text
    versions = [await register(services, seed) for seed in range(2)]
    await services.lora_server.promote("triage@prod", versions[0])
    await write_document(services, TENANT, "ferries.md", "The ferry carries bicycles.")
    answered = [await answer(services, key, text) for text in (IN_TRIAGE, IN_POLICY, IN_CHAT)]
    rating = {"decision_id": answered[0], "rating": 1.0}
    async with client(services, key) as session, session.post("/v1/feedback", json=rating) as response:
        assert response.status == 200, await response.text()

    async def is_written() -> bool:
        receipts = await receipts_in(services.valkey.url)
        if not {one["id"] for one in receipts.decided} >= set(answered) or not await feedback_in(services.valkey.url):
            return False
        used, of_the_budget = await used_budget(services)  # a gateway reports the latter on its own, after 0.5 s
        return round(used * PICODOLLARS) == receipts.picodollars().total() and of_the_budget >= used

    await found(is_written, PATIENCE)
    await make_more(services)
    return key


async def make_more(services: Services) -> None:
    """Creates as many further records and documents as the environment variables say, to measure a restore."""
    chance = random.Random(0)
    async with open_client(services.valkey.url) as opened:
        for first in range(0, RECORDS, 1000):
            names = (f"record:{number}" for number in range(first, min(first + 1000, RECORDS)))
            await opened.client.mset({name: chance.randbytes(RECORD_BYTES // 2).hex() for name in names})
    async with open_channel(services.retriever.address, token=lambda: services.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        for first in range(0, DOCUMENTS, BATCH):
            texts = (" ".join(f"word{chance.randrange(5000)}" for _ in range(WORDS)) for _ in range(BATCH))
            documents = [
                pb.Document(id=f"{first + number}", title="More", text=text) for number, text in enumerate(texts)
            ]
            await stub.Upsert(pb.UpsertRequest(collection="handbook", tenant=TENANT, documents=documents))


async def register(services: Services, seed: int) -> str:
    base = {"base_model_name_or_path": "tiny"}
    folder = write_adapter(services.folder / f"adapter-{seed}", good_tensors(), seed=seed, config=base)
    return (await services.lora_server.register("triage", folder, "prod")).version


async def write_document(services: Services, tenant: str, name: str, text: str) -> None:
    async with open_channel(services.retriever.address, token=lambda: services.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="handbook", tenant=tenant, if_missing=True))
        document = pb.Document(id=name, title=name, text=text)
        await stub.Upsert(pb.UpsertRequest(collection="handbook", tenant=tenant, documents=[document]))


async def answer(services: Services, key: str, text: str) -> str:
    """Sends a request, and returns the id of its decision."""

    async def ask() -> str | None:
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        async with client(services, key) as session, session.post("/v1/chat/completions", json=body) as response:
            return response.headers["x-pointsman-decision-id"] if response.status == 200 else None

    return await found(ask, PATIENCE)


def client(services: Services, key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(services.gateway.url, headers={"authorization": f"Bearer {key}"})


async def describe(services: Services) -> dict[str, Any]:
    """Returns all state that a restore has to bring back: Redis's keys, collections, and adapters."""
    listed = await services.lora_server.listed()
    changes = await services.lora_server.call("History", lora_pb.HistoryRequest(name="triage", limit=100))
    return {
        "redis": await redis_content(services.valkey.url),
        "collections": await collections(services),
        "versions": sorted(version.version for version in listed.versions),
        "aliases": {alias.alias: alias.version for alias in listed.aliases},
        "history": [str(change) for change in changes.changes],
        "adapter files": files_of(services.folder / "store"),
    }


async def used_budget(services: Services) -> tuple[float, float]:
    """Returns the dollars that the tenant's key has used: according to its receipts, and according to the gateways'
    reports.
    """
    async with open_redis(services.valkey.url, lambda up: None, PATIENCE) as redis:
        administration = Administration(redis)
        (row,) = (row for row in await administration.usage(TENANT) if row.key)
        used = [each["used_usd"] for each in await administration.budgets(TENANT) if each["key"]]
    return dollars(row.month), max(used)


async def redis_content(url: str) -> dict[str, Any]:
    """Returns the content of all Redis keys, except for those that expire within an hour and those that services
    rewrite.
    """
    content: dict[str, Any] = {}
    async with open_client(url) as opened:
        redis: Any = opened.client
        read = {
            "string": redis.get,
            "hash": redis.hgetall,
            "set": redis.smembers,
            "zset": lambda name: redis.zrange(name, 0, -1, withscores=True),
            "list": lambda name: redis.lrange(name, 0, -1),
            "stream": redis.xrange,
        }
        for name in sorted(await redis.keys("*")):
            if not 0 <= await redis.ttl(name) < 3600 and not any(part in name for part in PASSING):
                content[name] = await read[await redis.type(name)](name)
    return content


async def collections(services: Services) -> dict[str, Any]:
    async with open_channel(services.retriever.address, token=lambda: services.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        listed = await stub.ListCollections(pb.ListCollectionsRequest(all_tenants=True))
        found: dict[str, Any] = {}
        for one in listed.collections:
            request = pb.VerifyRequest(tenant=one.tenant, collection=one.name)
            verified = await stub.Verify(request, timeout=PATIENCE)
            assert not verified.problems
            found[f"{one.tenant}/{one.name}"] = (verified.documents, verified.chunks, verified.checksum)
    return found


def files_of(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file, by its path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and ".incoming" not in file.parts)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Returns the differences between two states: for mappings, each changed entry as (before, after)."""
    found: dict[str, Any] = {}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one != other:
            both = isinstance(one, dict) and isinstance(other, dict)
            found[name] = differences(one, other) if both else (one, other)  # type: ignore[arg-type]  # checked
    return found
