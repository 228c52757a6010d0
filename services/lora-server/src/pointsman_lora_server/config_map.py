"""Publishes which adapters a base model has, in the ConfigMap that llm-d's inference payload processor reads.

The processor finds the base model of a request by it, and sets the header X-Gateway-Base-Model-Name for the route:
https://github.com/llm-d/llm-d-inference-payload-processor, pkg/plugins/basemodelextractor. All lora-servers of a base
model write the same content, from the aliases in Redis.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_servicekit.kubernetes import ApiFailed, open_api

from pointsman_lora_server.domain import Alias

if TYPE_CHECKING:  # imported at the first write
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import ConfigMap

log = logging.getLogger(__name__)

MANAGED_LABEL = "inference.llm-d.ai/ipp-managed"
"""The label, with the value "true", of the ConfigMaps that the processor reads."""
FIELD_MANAGER = "pointsman-lora-server"
MAX_BYTES = 900_000
"""Limit of the list of names. A ConfigMap is limited to 1 MiB."""
CHECK_SECONDS = 2.0
"""Seconds between two checks whether the aliases have changed."""
REPAIR_SECONDS = 300.0
"""Seconds after which the ConfigMap is read again, although no alias has changed, because somebody may have changed it.
"""
UNAUTHENTICATED, FORBIDDEN, NOT_FOUND, CONFLICT = 401, 403, 404, 409
MAX_ATTEMPTS = 5
"""How often a write is tried if other lora-servers write at the same time."""


def published_names(aliases: Iterable[Alias]) -> Sequence[str]:
    """Returns the names by which adapters are requested, sorted: the aliases, their versions and their canaries."""
    return sorted({name for alias in aliases for name in (alias.alias, *alias.versions)})


@dataclass(frozen=True, slots=True)
class ConfigMapPublisher:
    """Keeps the ConfigMap `name`, in the pod's namespace, equal to the names of the current aliases."""

    name: str
    base_model: str
    service_account: Path
    aliases: Callable[[], tuple[Alias, ...] | None]
    """Returns the aliases; None while they are not known, and nothing is to be written."""

    async def run(self) -> None:
        """Writes the ConfigMap after each change of the aliases, until cancelled. A failure is logged once, and the
        write is tried again.
        """
        loop, written, read_at, problem = asyncio.get_running_loop(), None, 0.0, ""
        while True:
            aliases = self.aliases()
            if aliases is not None and (aliases is not written or loop.time() - read_at > REPAIR_SECONDS):
                try:
                    await self.publish(published_names(aliases))
                    written, read_at, problem = aliases, loop.time(), ""
                except ApiFailed as error:
                    if error.message != problem:
                        problem = error.message
                        log.warning("cannot publish the adapters' names: %s", problem)
                except Exception:  # a bug here must not stop the engine from serving
                    log.exception("cannot publish the adapters' names")
            await asyncio.sleep(CHECK_SECONDS)

    async def publish(self, names: Sequence[str]) -> None:
        """Makes the ConfigMap have these names, and no others; writes nothing if it has them already.

        Raises ApiFailed if the API refuses or does not answer, if the ConfigMap is that of another base model, or if
        the names do not fit in it.
        """
        data = {"baseModel": self.base_model, "adapters": "".join(f"- {json.dumps(name)}\n" for name in names)}
        if len(data["adapters"]) > MAX_BYTES:
            raise ApiFailed(
                f"{len(names)} names do not fit in the ConfigMap {self.name}: retire versions and aliases, or unset "
                "POINTSMAN_LORA_CONFIG_MAP"
            )
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with open_api(self.service_account, FIELD_MANAGER) as api:
                    await self._write(api, data)
                return
            except ApiFailed as error:
                if error.status == CONFLICT and attempt < MAX_ATTEMPTS:
                    continue
                raise self._explained(error) from error

    async def _write(self, api: "AsyncClient", data: Mapping[str, str]) -> None:
        from lightkube.models.meta_v1 import ObjectMeta
        from lightkube.resources.core_v1 import ConfigMap

        current = await self._read(api)
        metadata = current.metadata if current else None
        has = (current.data if current else None) or {}
        other = has.get("baseModel", self.base_model)
        if other != self.base_model:
            raise ApiFailed(
                f"the ConfigMap {self.name} is of the base model {other}, not {self.base_model}: give each base "
                "model's lora-servers a POINTSMAN_LORA_CONFIG_MAP of their own"
            )
        is_labelled = metadata is not None and (metadata.labels or {}).get(MANAGED_LABEL) == "true"
        if is_labelled and data.items() <= has.items():
            return
        # With the version that was read, the API rejects the write (409) if another lora-server has written since.
        version = metadata.resourceVersion if metadata else None
        written = ObjectMeta(name=self.name, labels={MANAGED_LABEL: "true"}, resourceVersion=version)
        await api.apply(ConfigMap(metadata=written, data=dict(data)), force=True)
        log.info("the ConfigMap %s names the adapters", self.name)

    async def _read(self, api: "AsyncClient") -> "ConfigMap | None":
        from httpx2 import HTTPStatusError
        from lightkube.resources.core_v1 import ConfigMap

        try:
            return await api.get(ConfigMap, self.name)
        except HTTPStatusError as error:
            if error.response.status_code == NOT_FOUND:
                return None
            raise

    def _explained(self, error: ApiFailed) -> ApiFailed:
        if error.status not in (UNAUTHENTICATED, FORBIDDEN):
            return error
        return ApiFailed(
            f"the lora-server's service account may not write the ConfigMap {self.name}: bind it to a Role with get, "
            f"create and patch of configmaps ({error.message})",
            error.status,
        )
