"""Clients for a guarded engine on another machine, which compares a version's files with its digest before it reads
them, or is sent them."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.checks.untrusted_input import CONFIG, WEIGHTS
from pointsman_lora_server.engine.vllm_client import LOAD_TIMEOUT_SECONDS, VllmClient

MIN_BYTES_PER_SECOND = 4 << 20
"""The slowest network over which a version can be sent: 4 MiB a second."""
_DIGEST = re.compile(r"[0-9a-f]{12,64}")


class SharedStoreClient(VllmClient):
    """Names the folder in which the engine finds a version, and the digest that its files must have there."""

    async def load(self, version: str, folder: Path) -> None:
        """As `VllmClient.load`; also raises FailedPrecondition ("engine_store") if the engine finds other files."""
        await self._load(version, self._engine_path(folder))

    async def _load(self, version: str, folder: str | None) -> None:
        """`folder` is None for a version that was sent."""
        order: dict[str, Any] = {"folder": folder}
        digest = version.partition("@")[2]
        if _DIGEST.fullmatch(digest):
            order["sha256"] = digest
        await self._call_guard("PUT", f"/{quote(version)}", order, LOAD_TIMEOUT_SECONDS)


class SendingClient(SharedStoreClient):
    """Sends the engine the files of a version that it does not hold, so that it needs no access to the store."""

    async def load(self, version: str, folder: Path) -> None:
        try:
            await self._load(version, None)
        except FailedPrecondition:  # the engine has no such files, or a part of them
            for name in (CONFIG, WEIGHTS):
                await self._send(version, folder / name)
            await self._load(version, None)

    async def _send(self, version: str, file: Path) -> None:
        with file.open("rb") as opened:  # aiohttp reads it in threads
            timeout_seconds = LOAD_TIMEOUT_SECONDS + file.stat().st_size / MIN_BYTES_PER_SECOND  # noqa: ASYNC240  # one stat
            await self._call_guard("PUT", f"/{quote(version)}/files/{file.name}", None, timeout_seconds, file=opened)
