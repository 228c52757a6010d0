"""Receipts of requests that are in flight when the gateway is stopped or killed."""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from pointsman_embedding.prepare import prepare

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.deployment import MODEL
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.waiting import until

CLIENTS = 24


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    async with running_valkey(tmp_path / "valkey") as valkey:
        yield valkey


@asynccontextmanager
async def a_gateway(folder: Path, valkey: Valkey, gap: float, **settings: object) -> AsyncIterator[ProcessGateway]:
    """A gateway with an engine that answers with 5 chunks, one every `gap` seconds."""
    prepare(MODEL)
    config = ConfigFolder(folder / "config")
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    async with process_engine(folder, "a", gap=gap) as engine:
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        settings |= {"config": config.write(), "embedding_model": MODEL}
        settings |= {"redis_url": valkey.url, "wal_dir": folder / "wal"}
        async with process_gateway(folder, **settings) as gateway:
            yield gateway


@dataclass
class Callers:
    """Clients that send plain, streamed and invalid requests until the gateway has stopped."""

    url: str
    ended: dict[str, float] = field(default_factory=dict)
    """By request id, when the request's answer or error was complete."""
    waiting: set[str] = field(default_factory=set)
    asked: int = 0
    gone: bool = False

    async def ask_on(self, session: aiohttp.ClientSession, *, badly: bool) -> None:
        while not self.gone:
            self.asked += 1
            name = f"r{self.asked}"
            self.waiting.add(name)
            try:
                await self._ask(session, name, badly)
            except (aiohttp.ClientError, OSError):
                if self.gone:
                    return
                await asyncio.sleep(0.001)
            else:
                self.ended[name] = time.monotonic()
            finally:
                self.waiting.discard(name)

    async def _ask(self, session: aiohttp.ClientSession, name: str, badly: bool) -> None:
        message = {"role": "user", "content": IN_CHAT}
        body = {"model": "junk" if badly else "auto", "messages": [message], "stream": self.asked % 2 == 0}
        async with session.post(self.url, json=body, headers={"x-request-id": name}) as answer:
            result = await answer.read()
            if answer.status == 200 and body["stream"] and b"[DONE]" not in result and b'"error"' not in result:
                raise aiohttp.ClientPayloadError("cut off")


@asynccontextmanager
async def calling(gateway: ProcessGateway) -> AsyncIterator[Callers]:
    callers = Callers(f"{gateway.url}/v1/chat/completions")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asking = [asyncio.create_task(callers.ask_on(session, badly=n % 6 == 0)) for n in range(CLIENTS)]
        try:
            yield callers
        finally:
            callers.gone = True
            await asyncio.gather(*asking)


async def ids_in(valkey: Valkey) -> Counter[str]:
    return Counter(one["request_id"] for one in (await receipts_in(valkey.url)).all)


async def test_a_stopped_gateway_writes_a_receipt_for_every_request(tmp_path: Path, valkey: Valkey) -> None:
    """Covers requests that end during the drain, that are aborted at its end, and that are rejected meanwhile."""
    async with a_gateway(tmp_path, valkey, gap=3.0, shutdown_delay=0.3, shutdown_timeout=0.4) as gateway:
        async with calling(gateway) as callers:
            await until(lambda: len(callers.ended) > 30, within=60)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(within=30) == 0
        cut = re.search(r"draining: (\d+) requests are aborted", gateway.words)
    receipts = await receipts_in(valkey.url)
    ids = Counter(one["request_id"] for one in receipts.all)
    assert [name for name, count in ids.items() if count > 1] == []
    assert callers.ended.keys() - ids.keys() == set()
    aborted, rejected = (Counter(one["outcome"] for one in some) for some in (receipts.decided, receipts.undecided))
    assert cut
    assert aborted["shutting_down"] == int(cut.group(1)) > 0
    assert rejected["shutting_down"] > 0
    assert aborted["cancelled"] == rejected["cancelled"] == 0
    assert "lost" not in gateway.words


async def test_a_killed_gateway_loses_only_the_requests_in_flight(tmp_path: Path, valkey: Valkey) -> None:
    """The next gateway with the same folder recovers the receipts that were not in Redis."""
    async with a_gateway(tmp_path, valkey, gap=0.01) as gateway, calling(gateway) as callers:
        await until(lambda: len(callers.ended) > 1000, within=90)
        killed, in_flight = time.monotonic(), len(callers.waiting)
        await gateway.kill()
        callers.gone = True
    seconds = killed - min(callers.ended.values())
    missing = callers.ended.keys() - (await ids_in(valkey)).keys()
    left_on_disk = list((tmp_path / "wal").glob("wal-*"))
    async with a_gateway(tmp_path, valkey, gap=0.01) as heir:
        await until(lambda: not any(file.exists() for file in left_on_disk), within=30)
        recovered = await heir.metric("pointsman_wal_recovered_total")
    ids = await ids_in(valkey)
    print(
        f"of {len(callers.ended)} requests that had ended ({len(callers.ended) / seconds:.0f} a second) {len(missing)} "
        f"had no receipt in Redis; {recovered:.0f} were recovered; {in_flight} were in flight, "
        f"{len(ids.keys() - callers.ended.keys())} of which have left one"
    )
    assert [name for name, count in ids.items() if count > 1] == []
    assert callers.ended.keys() - ids.keys() == set()
