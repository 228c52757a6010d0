"""Copies administrative changes from the audit log in Redis to the export log on disk, each at least once.

Commands, the admin API, lora-servers and gateways make administrative changes. At any time one gateway, the holder of a
lease in Redis, copies them. Redis also keeps the id of the last change that was copied.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
from pointsman_servicekit.audit.audit_log import AUDIT as OWN_STREAM
from pointsman_servicekit.audit.audit_log import AuditLog
from pointsman_servicekit.audit.entries import VERSION, AuditEntry
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.request_log.export_log import AUDIT, ExportLog

INTERVAL_SECONDS = 10.0
STREAMS_SECONDS = 300.0
"""Seconds between two searches in Redis for the audit streams of lora-servers; a search goes through all keys
of Redis."""
LEASE_SECONDS = 60.0
"""Seconds that the lease lasts: if the gateway that holds it is killed, another one exports changes after this time."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class AuditExport:
    """Copies administrative changes from the audit log in Redis to the export log on disk, each at least once."""

    def __init__(self, audit: AuditLog, export: ExportLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._export = export
        self._clock = clock
        self._holder = secrets.token_hex(8)
        self._streams = [OWN_STREAM]
        self._search_at = float("-inf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        schedule = Schedule(INTERVAL_SECONDS, run_at_start=True)
        async with running_periodically(self.copy, schedule, "copy the audit log to the export log"):
            yield

    async def copy(self) -> None:
        """Appends the administrative changes that are not exported yet to the export log; does nothing if another
        gateway does so at the moment.

        Changes stay in Redis while the disk takes no records, or while the export log is more than half full. Raises
        Unavailable if Redis does not answer; then some changes may be exported twice, with the same id.
        """
        if not await self._has_lease():
            return
        try:
            await self._copy(self._streams)
            if self._clock() >= self._search_at:
                known, self._streams = self._streams, await self._audit.streams()
                self._search_at = self._clock() + STREAMS_SECONDS
                await self._copy(name for name in self._streams if name not in known)
        finally:
            with suppress(Unavailable):
                await self._audit.end_export(self._holder)

    async def _copy(self, streams: Iterable[str]) -> None:
        for stream in streams:
            while await self._has_lease():
                found, last = await self._audit.not_exported(stream)
                if not last or not await self._append(stream, found, last):
                    break

    async def _append(self, stream: str, found: Sequence[tuple[str, AuditEntry]], last: str) -> bool:
        """Appends the changes `found` up to the id `last`, in parts if there is no room for all. Returns whether all
        were appended.
        """
        if self._export.append_now(AUDIT, [_record(*one) for one in found]):
            await self._audit.set_exported(stream, last)
            return True
        middle = len(found) // 2
        if not middle:
            return False
        last_of_first = found[middle - 1][0].removeprefix(f"{stream}:")
        is_first = await self._append(stream, found[:middle], last_of_first)
        return is_first and await self._append(stream, found[middle:], last)

    async def _has_lease(self) -> bool:
        return await self._audit.lease_export(self._holder, LEASE_SECONDS)


def _record(record_id: str, entry: AuditEntry) -> str:
    return _encode({"v": VERSION, "id": record_id, **entry.as_fields()}).decode()
