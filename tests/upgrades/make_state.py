"""Stores the files that the services of this release write, for the tests that later releases can read them.

    python -m tests.upgrades.make_state VERSION

It starts the services, uses them, stops them, and packs their files into `states/VERSION.tar.gz`: the data of Valkey, a
collection, the adapter store, and the write-ahead log of a gateway that was killed while Valkey did not answer. What
the files contain is listed in `expected.json` in the archive.

Run it once for each release. Do not run it again for an old one: the archive must be what that release has written.
"""

import asyncio
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import UsageStore
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.request_logs import feedback_in
from tests.gateway.doubles.tenancy import issue, register_at
from tests.gateway.doubles.waiting import found, until
from tests.lora_server.tiny_adapters import good_tensors, write_adapter
from tests.security.target import Services, prepare_model, running_services
from tests.upgrades.release_state import LORA_SETTINGS, STATE_FOLDERS, STATES

TENANT = "acme"
ADAPTER = {"base_model_name_or_path": "tiny"}
LIMITS = Limits(requests_per_minute=1000, dollars_per_month=100.0)
PATIENCE = 60.0


async def main(version: str) -> None:
    prepare_model()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with running_services(folder, lora_settings=LORA_SETTINGS) as services:
            expected = await _use(services) | {"version": version}
            await _leave_unwritten_receipts(services, expected)
            await _save(services)
        (folder / "expected.json").write_text(json.dumps(expected, indent=1))
        with tarfile.open(STATES / f"{version}.tar.gz", "w:gz", compresslevel=9) as archive:
            for name in (*STATE_FOLDERS, "expected.json"):
                archive.add(folder / name, name)


async def _use(services: Services) -> dict[str, Any]:
    """Creates state of every kind: keys, adapters, documents, receipts, usage and feedback."""
    issued = await issue(services.valkey.url, LIMITS, tenant=TENANT, operator=True)
    revoked = await issue(services.valkey.url, tenant=TENANT)
    async with register_at(services.valkey.url) as register:
        await register.revoke(revoked.record.id)
    versions = []
    for seed in range(3):
        folder = write_adapter(services.folder / f"adapter-{seed}", good_tensors(), seed=seed, config=ADAPTER)
        versions.append((await services.lora_server.register("triage", folder, "prod" if seed < 2 else "")).version)
    await services.lora_server.promote("triage@prod", versions[0])
    key = issued.credential.text
    answered = [await _decide(services, key, text) for text in (IN_TRIAGE, IN_POLICY, IN_CHAT)]
    async with _session(services, key) as session:
        rating = {"decision_id": answered[0], "rating": 1.0}
        await session.post("/v1/feedback", json=rating)
        await session.post("/v1/chat/completions", json={"model": "path:no_such", "messages": [_user(IN_CHAT)]})

    async def is_written() -> bool:
        receipts = await receipts_in(services.valkey.url)
        if not (receipts.undecided and await feedback_in(services.valkey.url)):
            return False
        async with open_redis(services.valkey.url, lambda up: None, 2.0) as redis:
            used = (await UsageStore(redis).read()).today.get((TENANT, issued.record.id), {})
        return {one["id"] for one in receipts.decided} >= set(answered) and used.get("requests", 0) >= len(answered)

    await found(is_written, PATIENCE)
    documents = sorted(path.name for path in (services.folder / "retriever").rglob("*.sqlite3"))
    assert documents
    return {
        "key": key,
        "key_id": issued.record.id,
        "revoked_key": revoked.credential.text,
        "tenant": TENANT,
        "versions": versions,
        "alias": {"triage@prod": versions[0]},
        "decisions": answered,
        "rated": answered[0],
    }


async def _leave_unwritten_receipts(services: Services, expected: dict[str, Any]) -> None:
    """Kills the gateway while Valkey does not answer, so that receipts and feedback are in its write-ahead log only."""
    services.valkey.hang()
    expected["in_wal"] = [await _decide(services, expected["key"], IN_CHAT) for _ in range(3)]
    async with _session(services, expected["key"]) as session:
        body = {"decision_id": expected["decisions"][1], "rating": 0.5}
        async with session.post("/v1/feedback", json=body) as answer:
            assert (await answer.json())["stored"] == "wal"
    await services.gateway.kill()
    services.valkey.go_on()


async def _save(services: Services) -> None:
    """Removes the expiry of all keys, because the fixture is opened much later, and compacts the data."""
    async with open_client(services.valkey.url) as opened:
        for name in await opened.client.keys("*"):
            await opened.client.persist(name)
        await opened.client.execute_command("BGREWRITEAOF")

        async def is_rewritten() -> bool:
            state = await opened.client.info("persistence")
            return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]

        await found(is_rewritten, PATIENCE)
    for process in (services.retriever, services.lora_server):
        await process.kill()
    services.valkey.kill()
    await until(lambda: not (services.folder / "valkey" / "temp.aof").exists())


async def _decide(services: Services, key: str, text: str) -> str:
    """Sends a request, and returns the id of its decision."""

    async def answered() -> str | None:
        async with _session(services, key) as session:
            body = {"model": "auto", "messages": [_user(text)], "max_tokens": 8}
            async with session.post("/v1/chat/completions", json=body) as answer:
                return answer.headers["x-pointsman-decision-id"] if answer.status == 200 else None

    return await found(answered, PATIENCE)


def _session(services: Services, key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(services.gateway.url, headers={"authorization": f"Bearer {key}"})


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
