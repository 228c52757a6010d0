"""Records each new configuration in the audit log; the first gateway that has it does so."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pointsman_servicekit.audit.audit_log import AuditLog
from pointsman_servicekit.audit.entries import Actor, AuditedChange
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.request_log.config_values import FileValues, changes_between, file_values, to_json

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
"""Seconds between two checks of the active configuration. Redis is read only if the configuration has changed."""

Running = Callable[[], tuple[str, Mapping[str, str]]]
"""A function that returns the revision of the active configuration, and the texts of its files by their names."""


class ConfigAudit:
    """Compares the active configuration with the last one in the audit log, and records the changes there.

    Changes that are made while no gateway runs, or while Redis is unavailable, are recorded later.
    """

    def __init__(self, audit: AuditLog, running: Running, actor: Callable[[], Actor]) -> None:
        """Takes `running`, which returns the active configuration, and `actor`, which returns the person or program
        that has changed the files, as far as it is known.
        """
        self._audit = audit
        self._running = running
        self._actor = actor
        self._recorded = ""
        """The revision of the configuration that the audit log is known to have; empty if it is not known."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        schedule = Schedule(INTERVAL_SECONDS, run_at_start=True)
        async with running_periodically(self.record, schedule, "record the configuration in the audit log"):
            yield

    async def record(self) -> None:
        """Records the active configuration in the audit log, unless the latest entry there is the same
        configuration.

        Raises Unavailable if Redis does not answer.
        """
        revision, files = self._running()
        if revision == self._recorded:
            return
        replaced, recorded = await self._audit.configuration()
        if replaced != revision:
            values = await asyncio.to_thread(file_values, files)  # parsing 100 kB of YAML takes 0.2 s
            compared = changes_between(_parsed(recorded), values) if replaced else []
            changes = _with_revisions(compared, replaced, revision)
            encoded = to_json(values)
            if not await self._audit.record_configuration(self._actor(), replaced, revision, encoded, changes):
                return  # another gateway was faster: the next call compares again
        self._recorded = revision


def _with_revisions(changes: list[AuditedChange], replaced: str, revision: str) -> list[AuditedChange]:
    """Adds both revisions to each change. If there are no changes, as when only examples differ, returns one with just
    the revisions.
    """
    before = {"revision": replaced} if replaced else {}
    if not changes:
        changes = [AuditedChange("configuration", "changed" if replaced else "first seen", "configuration")]
    return [replace(one, before={**before, **one.before}, after={"revision": revision, **one.after}) for one in changes]


def _parsed(recorded: str) -> FileValues:
    try:
        found: Any = json.loads(recorded)
        if isinstance(found, dict) and all(isinstance(values, dict) for values in found.values()):
            return found
    except (ValueError, RecursionError) as error:
        log.error("the configuration that the audit log has recorded cannot be read: %s", error)
    return {}
