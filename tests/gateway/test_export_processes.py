"""Gateway and exporter are killed under load, and the object store fails: no decision is lost."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, fit_classifier
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.request_logs import decisions_in
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until
from tests.ports import free_port

s3fs = pytest.importorskip("s3fs", reason="pip install pointsman[s3]")
pytest.importorskip("moto.server", reason="requirements-dev.txt names what it needs")

BUCKET = "records"
CLIENTS = 4
OUTAGE_SECONDS = float(os.environ.get("POINTSMAN_TEST_OUTAGE_SECONDS", "3"))
KILLS = 3


class S3Server:
    """moto's S3 interface in a thread; its objects survive a stop."""

    def __init__(self) -> None:
        self._port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(BUCKET)
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def exporter(folder: Path, wal: Path) -> Process:
    settings = {
        "POINTSMAN_EXPORT_TARGET": f"s3://{BUCKET}/all",
        "POINTSMAN_EXPORT_WAL_DIR": str(wal),
        "POINTSMAN_EXPORT_SECONDS": "0.5",
    }
    program = [sys.executable, "-m", "pointsman_gateway.export"]
    return Process(program, settings, folder / "export.log", "records in .* are exported")


class Clients:
    """Clients that send one request after the other, and note the decisions of complete answers."""

    def __init__(self, gateway: ProcessGateway) -> None:
        self.decisions: list[str] = []
        self._gateway = gateway

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            tasks = [asyncio.create_task(self._ask(session)) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        body = {"model": "path:small_talk", "messages": [{"role": "user", "content": IN_CHAT}]}
        while True:
            try:
                async with session.post(f"{self._gateway.url}/v1/chat/completions", json=body) as answer:
                    await answer.read()
                    if answer.status == 200:
                        self.decisions.append(answer.headers["x-pointsman-decision-id"])
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.05)

    async def more(self, count: int) -> None:
        wanted = len(self.decisions) + count
        await until(lambda: len(self.decisions) >= wanted, within=60)


def exported() -> list[str]:
    """Returns the ids of all decisions in the bucket, with duplicates."""
    import pyarrow.parquet as pq

    store = s3fs.S3FileSystem(use_listings_cache=False)
    ids = []
    for file in store.glob(f"{BUCKET}/all/decisions/*/*/*.parquet"):
        with store.open(file) as opened:
            ids += pq.ParquetFile(opened).read(columns=["id"])["id"].to_pylist()
    return ids


async def test_kills_and_an_outage_of_the_store_lose_no_decision(
    tmp_path: Path, config_folder: ConfigFolder, model_folder: Path, valkey: Valkey, s3: S3Server
) -> None:
    async with process_engine(tmp_path, "a", pieces=2, first=0.0, gap=0.0) as engine:
        config_folder.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config_folder.paths = {name: path for name, path in config_folder.paths.items() if "adapter" not in path}
        config_folder.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
        wal, config = tmp_path / "wal", config_folder.write()
        settings = {
            "config": config, "embedding_model": model_folder, "redis_url": valkey.url, "wal_dir": wal,
            "export_max_bytes": 10**9, "classifier": fit_classifier(config, tmp_path / "fitted"),
        }  # fmt: skip
        gateway, exporting = ProcessGateway(tmp_path, settings), exporter(tmp_path, wal)
        clients = Clients(gateway)
        try:
            await gateway.open_clients()
            await exporting.start()
            async with clients.asking():
                for number in range(KILLS):
                    await clients.more(200)
                    if number == 1:
                        s3.stop()
                        await asyncio.sleep(OUTAGE_SECONDS)
                        await clients.more(50)
                        s3.start()
                    await asyncio.sleep(random.uniform(0, 0.5))
                    await asyncio.gather(gateway.kill(), exporting.kill())
                    await gateway.open_clients()
                    await exporting.start()
                await clients.more(100)
            known = set(clients.decisions)
            await until(lambda: known <= set(exported()), within=90)
        finally:
            await gateway.kill()
            await exporting.kill()
    assert {entry["id"] for entry in await decisions_in(valkey.url)} <= set(exported())
