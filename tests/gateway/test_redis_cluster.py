"""The gateway and the lora-server keep all their state in a real Redis cluster, and survive the loss of a node."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_gateway.cache.keys import CacheKeys
from pointsman_gateway.cache.store import CacheStore
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.shadow.budget import ShadowStore
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import UsageStore

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.request_logs import feedback_in
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey_groups import ClusterGroup, running_cluster
from tests.gateway.doubles.waiting import found
from tests.lora_server.server_process import ServerProcess
from tests.lora_server.tiny_adapters import good_tensors, write_adapter, write_base

PATIENCE = 60.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterGroup]:
    async with running_cluster(tmp_path, replicas=0) as group:
        yield group


@pytest.fixture
async def gateway(tmp_path: Path, cluster: ClusterGroup, model_folder: Path) -> AsyncIterator[ProcessGateway]:
    config = ConfigFolder(tmp_path / "config")
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.paths["triage_few_shot"] |= {"cache": {"exact": True}, "temperature": 0}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    config.models["cache"] = {"usd_per_hit": 0}
    async with process_engine(tmp_path, "a") as engine:
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        settings = {"config": config.write(), "embedding_model": model_folder, "redis_url": cluster.url}
        async with process_gateway(tmp_path, **settings, wal_dir=tmp_path / "wal", auth="on") as gateway:
            yield gateway


async def test_every_store_of_the_gateway_works_and_a_killed_node_loses_no_receipt(
    cluster: ClusterGroup, gateway: ProcessGateway
) -> None:
    limits = Limits(requests_per_minute=1000, dollars_per_day=1.0, concurrent_streams=10)
    issued = await issue(cluster.url, limits, tenant="acme")
    headers = {"authorization": f"Bearer {issued.credential.text}"}
    sent: list[str] = []

    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(text: str) -> aiohttp.ClientResponse:
            body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 20}
            async with session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                await answer.read()
                if answer.status == 200:
                    sent.append(answer.headers["x-pointsman-decision-id"])
                return answer

        async def answered() -> bool:
            return (await ask(IN_CHAT)).status == 200

        async def cached() -> bool:
            return (await ask(IN_TRIAGE)).headers.get("x-pointsman-cache") == "exact"

        await found(answered, PATIENCE)
        await found(cached, PATIENCE)

        async def rated() -> bool:
            body = {"decision_id": sent[0], "rating": 1.0}
            async with session.post(f"{gateway.url}/v1/feedback", json=body) as answer:
                return answer.status == 200 and bool(await feedback_in(cluster.url))

        await found(rated, PATIENCE)
        node = await cluster.owner_of("{pointsman}:decisions")
        node.kill()
        for _ in range(20):
            assert (await ask(IN_CHAT)).status == 200
        await node.start()
        await found(cluster.is_complete, PATIENCE)

    async def complete() -> bool:
        return set(sent) <= {one["id"] for one in (await receipts_in(cluster.url)).decided}

    await found(complete, PATIENCE)

    async def counted() -> bool:
        async with open_redis(cluster.url, lambda up: None, 2.0) as redis:
            usage = await UsageStore(redis).read()
        counts = usage.today["acme", issued.record.id]
        return counts["requests"] - counts.get("failed", 0) == len(sent)

    await found(counted, PATIENCE)
    assert "CROSSSLOT" not in gateway.words
    assert "same key slot" not in gateway.words


async def test_stores_whose_keys_are_of_one_tenant_or_day(cluster: ClusterGroup) -> None:
    async with open_redis(cluster.url, lambda up: None, 2.0) as redis:
        cache = CacheStore(redis)
        keys = CacheKeys("small_talk", "tiny", "tenant", "exact", "partition", "question", is_renewal=False)
        await cache.write(keys, "an answer", 60, None)
        assert (await cache.look_up(keys, "")).answer == "an answer"
        shadow = ShadowStore(redis, Redaction())
        assert await shadow.add("20260101", {"triage": 3}) == {"triage": 3}
        assert await shadow.add("20260101", {"triage": 4}) == {"triage": 7}


async def test_the_registry_of_adapters_works_and_survives_a_killed_node(cluster: ClusterGroup, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    more = {"SMOKE_TEST": "off"}
    server = ServerProcess(tmp_path / "server", base, "engine", cluster.url, tmp_path / "store", more=more)
    try:
        await server.start_with_engine()
        versions = []
        for seed in range(2):
            folder = write_adapter(tmp_path / f"adapter-{seed}", good_tensors(), seed=seed)
            versions.append((await server.register("triage", folder, "prod")).version)

        async def moved_to(version: str) -> bool:
            aliases = {alias.alias: alias.version for alias in (await server.engine_state()).aliases}
            return aliases.get("triage@prod") == version

        await server.until(lambda: moved_to(versions[1]))
        node = await cluster.owner_of("{pointsman:adapters:tiny-base}:aliases")
        node.kill()
        assert await moved_to(versions[1])  # it keeps serving
        await node.start()
        await found(cluster.is_complete, PATIENCE)
        await server.promote("triage@prod", versions[0])
        await server.until(lambda: moved_to(versions[0]))
        history = await server.call("History", pb.HistoryRequest(name="triage", limit=10))
        assert history.changes[0].kind == "alias"
    finally:
        await server.kill()
