"""Builds the parts of the web console: its service, the administration of keys, the audit of configuration changes, and
the example requests that the console suggests.
"""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pointsman_servicekit.audit.entries import Actor
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.keys.administration import Administration

from pointsman_gateway.bootstrap.persistence import Persistence
from pointsman_gateway.config.load import Config, watched_files
from pointsman_gateway.console.exported import ExportedDecisions
from pointsman_gateway.console.stage import Console
from pointsman_gateway.pipeline.reload import ConfigReloader
from pointsman_gateway.request_log.audit_export import AuditExport
from pointsman_gateway.request_log.config_audit import ConfigAudit
from pointsman_gateway.request_log.export_log import ExportLog
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_gateway.settings import Settings

CONSOLE_REDIS_TIMEOUT_SECONDS = 2.0
"""Maximum seconds for one call of Redis by the web console. It is longer than for other calls, because only users of
the console wait, and no client's request."""

EXAMPLE_CHARACTERS = 60


@asynccontextmanager
async def open_console(
    settings: Settings, reloader: ConfigReloader, persistence: Persistence
) -> AsyncIterator[tuple[Console, Administration | None]]:
    """A context manager that yields the web console's service, and the administration of keys, which is None without
    Redis.

    Both share a connection to Redis that is not used for clients' requests: if the console's reads are slow, requests
    still treat Redis as available. The connection is closed at the end of the block.
    """
    hosts = tuple(name.strip().lower() for name in settings.console_hosts.split(",") if name.strip())
    async with AsyncExitStack() as stack:
        reader = administration = None
        if settings.redis_url:
            opening = open_redis(settings.redis_url, lambda up: None, CONSOLE_REDIS_TIMEOUT_SECONDS)
            redis = await stack.enter_async_context(opening)
            reader, administration = RequestLogReader(redis), Administration(redis)
            audit = ConfigAudit(administration.audit, reloader.running_files, lambda: _editor(settings.config))
            await stack.enter_async_context(audit.running())
            if isinstance(persistence.export, ExportLog):
                exporting = AuditExport(administration.audit, persistence.export)
                await stack.enter_async_context(exporting.running())
        console = Console(
            lambda: reloader.current,
            persistence.evidence,
            reader,
            settings.auth == "on",
            hosts,
            ExportedDecisions(settings.console_records) if settings.console_records else None,
        )
        yield console, administration


def example_requests(config: Config) -> Mapping[str, str]:
    """Returns an example request of each task, for the web console: task -> text.

    It is the one of the task's configured examples whose length is nearest to `EXAMPLE_CHARACTERS`.
    """
    return {
        task: min((example.text for example in examples), key=lambda text: abs(len(text) - EXAMPLE_CHARACTERS))
        for task, examples in config.examples.items()
        if examples
    }


def _editor(config: Path) -> Actor:
    """Returns who has probably changed the configuration: the owner of its file that was changed last.

    With it come the name of this machine and the configuration's place. The owner is empty if it is not known.
    """
    place = f"{socket.gethostname()}: {config}"
    try:
        files = [file for root in watched_files(config) for file in (root, *root.glob("*.yaml")) if file.is_file()]
        newest = max(files, key=lambda file: file.stat().st_mtime)
        return Actor(f"owner of {newest.name}: {newest.owner()}", place)
    except (OSError, KeyError, ValueError):  # no such file any more, or no name for its owner
        return Actor("", place)
