"""Clients for an engine with the guard on another machine. Before the engine reads a version's files there, the guard
compares them with the version's digest. The files are in a shared folder, or the client sends them.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.checks.untrusted_input import CONFIG, WEIGHTS
from pointsman_lora_server.engine.vllm_client import LOAD_TIMEOUT_SECONDS, VllmClient

MIN_BYTES_PER_SECOND = 4 << 20
"""The slowest network for which the time limit of sending a file is sufficient: 4 MiB per second."""
_DIGEST = re.compile(r"[0-9a-f]{12,64}")


class SharedStoreClient(VllmClient):
    """Client of an engine that reads versions from a shared folder. Each load names the folder and the digest that the
    version's files must have.
    """

    async def load(self, version: str, folder: Path) -> None:
        """Loads a version as `VllmClient.load` does. Also raises FailedPrecondition ("engine_store") if the files that
        the engine finds have another digest.
        """
        await self._load(version, self._engine_path(folder))

    async def _load(self, version: str, folder: str | None) -> None:
        """Loads a version from `folder`, a path on the engine's machine; None if the version's files were sent to the
        engine.
        """
        order: dict[str, Any] = {"folder": folder}
        digest = version.partition("@")[2]
        if _DIGEST.fullmatch(digest):
            order["sha256"] = digest
        await self._call_guard("PUT", f"/{quote(version)}", order, LOAD_TIMEOUT_SECONDS)


class SendingClient(SharedStoreClient):
    """Client of an engine without access to the adapter store. It sends the files of a version if the engine does not
    have them.
    """

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
