"""What exporting costs: a real gateway under load, and a real exporter, by the processor time of their processes."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from pointsman_gateway.request_log import export_log
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.exports import ids_in
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.valkey import running_valkey
from tests.gateway.doubles.waiting import found

CLIENTS = 8
WARM_UP = 500
MODEL = Path(__file__).parents[2] / ".pointsman/models/minilm"
APPENDED_AT_ONCE = 4
"""Entries that a gateway under load encodes in one turn, and so appends together."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


async def export_cost(folder: Path, requests: int) -> dict[str, Any]:
    """Returns microseconds of CPU time: of the gateway for a request, and of both processes for exporting it."""
    async with _gateway(folder) as gateway:
        await _ask(gateway.url, WARM_UP)
        before = _cpu_seconds(gateway.pid)
        await _ask(gateway.url, requests)
        request_us = (_cpu_seconds(gateway.pid) - before) / requests * 1e6
        gateway.signal(15)
        await gateway.ended(60)
    segments = sorted((folder / "wal" / "export").glob(f"*{export_log.FINISHED}"))
    content = b"".join(segment.read_bytes() for segment in segments)
    append_us = _append_us(folder / "appended", content)
    exporter_us, exported = await _exporter_us(folder, content)
    return {
        "requests": requests,
        "bytes_per_record": round(len(content) / (requests + WARM_UP)),
        "request_us": round(request_us, 1),
        "append_us": round(append_us, 2),
        "exporter_us": round(exporter_us, 2),
        "exported": exported,
        "share": round((append_us + exporter_us) / request_us, 4),
    }


@asynccontextmanager
async def _gateway(folder: Path) -> AsyncIterator[Any]:
    config = ConfigFolder(folder / "config")
    async with (
        running_valkey(folder / "valkey") as valkey,
        process_engine(folder, "a", pieces=3, first=0.0, gap=0.0) as engine,
    ):
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
        config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
        settings = {"config": config.write(), "embedding_model": MODEL, "redis_url": valkey.url}
        settings |= {"wal_dir": folder / "wal", "export_max_bytes": 10**9, "shutdown_delay": 0}
        async with process_gateway(folder, **settings) as gateway:
            yield gateway


async def _ask(url: str, requests: int) -> None:
    body = {"model": "path:small_talk", "messages": [{"role": "user", "content": IN_CHAT}]}
    left = iter(range(requests))
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for _ in left:
                async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))


def _append_us(folder: Path, content: bytes) -> float:
    records = [line.partition(b"\t")[2].decode() for line in content.splitlines()]
    log = export_log.ExportLog(folder, "bench", RequestLogMetrics(CollectorRegistry()), 10**9)
    began = time.process_time()
    for start in range(0, len(records), APPENDED_AT_ONCE):
        log.append(export_log.DECISIONS, records[start : start + APPENDED_AT_ONCE])
    seconds = time.process_time() - began
    log.close()
    return seconds / len(records) * 1e6


async def _exporter_us(folder: Path, content: bytes) -> tuple[float, int]:
    """Returns the exporter's CPU time for a decision while it runs, and how many it exported.

    It first exports one segment, so that all is loaded, and then all segments again, as those of another gateway.
    """
    wal, target = folder / "wal", folder / "records"
    settings = {"POINTSMAN_EXPORT_TARGET": str(target), "POINTSMAN_EXPORT_WAL_DIR": str(wal)}
    program = [sys.executable, "-m", "pointsman_gateway.export"]
    exporting = Process(program, settings | {"POINTSMAN_EXPORT_SECONDS": "0"}, folder / "export.log", "are exported to")
    await exporting.start()
    try:
        await _drained(wal)
        first = len(ids_in(target))
        before = _cpu_seconds(exporting.pid)
        for number in range(5):
            temporary = wal / "export" / f"again{number}.tmp"
            temporary.write_bytes(content)
            temporary.rename(wal / "export" / f"again{number}-00000001{export_log.FINISHED}")
        await _drained(wal)
        seconds = _cpu_seconds(exporting.pid) - before
        exported = len(ids_in(target)) - first
        return seconds / exported * 1e6, exported
    finally:
        await exporting.kill()


async def _drained(wal: Path) -> None:
    async def is_drained() -> bool:
        left = [*(wal / "export").glob(f"*{export_log.FINISHED}"), *(wal / "export").glob("plan.json")]
        return not left

    await found(is_drained, within=300)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
