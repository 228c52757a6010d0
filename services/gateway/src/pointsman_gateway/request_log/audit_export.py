"""Copies administrative changes from the audit log in Redis to the export log, each at least once.

They are made by commands, the admin API, lora-servers and gateways, so one of the gateways that export reads them from
Redis. Redis has the id of the last one that is in an export log.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from pointsman_servicekit.audit.audit_log import AuditLog
from pointsman_servicekit.audit.entries import VERSION, AuditEntry
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.request_log.export_log import AUDIT, ExportLog

INTERVAL_SECONDS = 10.0
STREAMS_SECONDS = 300.0
"""Seconds between two searches for streams of lora-servers, for which Redis goes through all its keys."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class AuditExport:
    """Copies administrative changes from the streams in Redis to the export log, at least once each."""

    def __init__(self, audit: AuditLog, export: ExportLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._export = export
        self._clock = clock
        self._streams: list[str] = []
        self._search_at = float("-inf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        schedule = Schedule(INTERVAL_SECONDS, run_at_start=True)
        async with running_periodically(self.copy, schedule, "copy the audit log to the export log"):
            yield

    async def copy(self) -> None:
        """Appends the changes that are not exported yet. They stay in Redis alone while the disk takes no records, or
        half of what may wait there is used.

        Raises Unavailable if Redis does not answer. Then some changes may be exported twice, with the same id.
        """
        if self._clock() >= self._search_at:
            self._streams = await self._audit.streams()
            self._search_at = self._clock() + STREAMS_SECONDS
        for stream in self._streams:
            while True:
                found, last = await self._audit.not_exported(stream)
                if not last or not self._export.append_now(AUDIT, [_record(*one) for one in found]):
                    break
                await self._audit.set_exported(stream, last)


def _record(record_id: str, entry: AuditEntry) -> str:
    return _encode({"v": VERSION, "id": record_id, **entry.as_fields()}).decode()
