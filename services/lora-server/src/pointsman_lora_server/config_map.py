"""Publishes which adapters a base model has, in the ConfigMap that llm-d's inference payload processor reads.

The processor finds the base model of a request by it, and sets the header X-Gateway-Base-Model-Name for the route:
https://github.com/llm-d/llm-d-inference-payload-processor, pkg/plugins/basemodelextractor. All lora-servers of a base
model write the same content, from the aliases in Redis.
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_servicekit.kubernetes import ApiFailed, get_or_none, open_api
from pointsman_servicekit.process import Backoff

from pointsman_lora_server.domain import Alias

if TYPE_CHECKING:  # imported at the first write
    from lightkube import AsyncClient

log = logging.getLogger(__name__)

MANAGED_LABEL = "inference.llm-d.ai/ipp-managed"
"""The label, with the value "true", of the ConfigMaps that the processor reads."""
FIELD_MANAGER = "pointsman-lora-server"
MAX_BYTES = 900_000
"""Limit of the list of names. A ConfigMap is limited to 1 MiB."""
CHECK_SECONDS = 2.0
"""Seconds between two checks whether the aliases have changed."""
FRESH_SECONDS = 60.0
"""The ConfigMap is written only if the aliases were read from Redis within so many seconds: a lora-server that has lost
Redis must not undo what others write."""
REPAIR_SECONDS = 300.0
"""Seconds between two reads of the ConfigMap while no alias changes; a change by somebody else is then undone."""
MAX_RETRY_SECONDS = 60.0
"""Maximum of the seconds between two attempts if writes fail: these begin with `CHECK_SECONDS` and are doubled, and up
to a half shorter at random."""
MAX_ATTEMPTS = 5
"""How often a write is tried if other lora-servers write at the same time."""


def published_names(aliases: Iterable[Alias]) -> Sequence[str]:
    """Returns the names of the aliases' versions, canaries included, sorted. Engines do not know aliases, so a route
    by the base model must not lead a request for one to an engine.
    """
    return sorted({name for alias in aliases for name in alias.versions})


@dataclass(frozen=True, slots=True)
class ConfigMapPublisher:
    """Keeps the ConfigMap `name`, in the pod's namespace, equal to the names of the current aliases."""

    name: str
    base_model: str
    service_account: Path
    aliases: Callable[[], tuple[Alias, ...] | None]
    """Returns the aliases; None while they are not known or not fresh, and nothing is to be written."""

    async def run(self) -> None:
        """Writes the ConfigMap after each change of the aliases, until cancelled. A failure is logged once, and the
        write is tried again.
        """
        loop, written, read_at, problem = asyncio.get_running_loop(), None, 0.0, ""
        wait, backoff = 0.0, Backoff(CHECK_SECONDS, MAX_RETRY_SECONDS)
        while True:
            failed = False
            aliases = self.aliases()
            if aliases is not None and (aliases is not written or loop.time() - read_at > REPAIR_SECONDS):
                try:
                    await self.publish(published_names(aliases))
                    written, read_at, problem = aliases, loop.time(), ""
                except ApiFailed as error:
                    failed = True
                    if error.message != problem:
                        problem = error.message
                        log.warning("cannot publish the adapters' names: %s", problem)
                except Exception:  # a bug here must not stop the engine from serving
                    failed = True
                    log.exception("cannot publish the adapters' names")
            wait = backoff.after(wait, 0.0) if failed else 0.0
            await asyncio.sleep(wait * random.uniform(0.5, 1.0) if failed else CHECK_SECONDS)

    async def publish(self, names: Sequence[str]) -> None:
        """Makes the ConfigMap have these names, and no others; writes nothing if it has them already.

        Raises ApiFailed if the API refuses or does not answer, if the ConfigMap is that of another base model, if the
        names do not fit in it, or if there are none and the ConfigMap has some: aliases are never deleted.
        """
        data = {"baseModel": self.base_model, "adapters": "".join(f"- {json.dumps(name)}\n" for name in names)}
        if len(data["adapters"]) > MAX_BYTES:
            raise ApiFailed(
                f"{len(names)} names do not fit in the ConfigMap {self.name}: unset "
                "POINTSMAN_LORA_CONFIG_MAP, and list the names in several ConfigMaps of your own"
            )
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with open_api(self.service_account, FIELD_MANAGER) as api:
                    await self._write(api, data)
                return
            except ApiFailed as error:
                if error.is_conflict and attempt < MAX_ATTEMPTS:
                    continue
                raise self._explained(error) from error

    async def _write(self, api: "AsyncClient", data: Mapping[str, str]) -> None:
        from lightkube.models.meta_v1 import ObjectMeta
        from lightkube.resources.core_v1 import ConfigMap

        current = await get_or_none(api, ConfigMap, self.name)
        metadata = current.metadata if current else None
        has = (current.data if current else None) or {}
        other = has.get("baseModel", self.base_model)
        if other != self.base_model:
            raise ApiFailed(
                f"the ConfigMap {self.name} is of the base model {other}, not {self.base_model}: give each base "
                "model's lora-servers a POINTSMAN_LORA_CONFIG_MAP of their own"
            )
        if not data["adapters"] and has.get("adapters"):
            raise ApiFailed(
                f"Redis has no aliases, but the ConfigMap {self.name} names adapters, and stays: if they are gone for "
                f'good, run kubectl patch configmap {self.name} --type merge -p \'{{"data": {{"adapters": ""}}}}\''
            )
        is_labelled = metadata is not None and (metadata.labels or {}).get(MANAGED_LABEL) == "true"
        if is_labelled and data.items() <= has.items():
            return
        # With the version that was read, the API rejects the write (409) if another lora-server has written since.
        version = metadata.resourceVersion if metadata else None
        written = ObjectMeta(name=self.name, labels={MANAGED_LABEL: "true"}, resourceVersion=version)
        await api.apply(ConfigMap(metadata=written, data=dict(data)), force=True)
        log.info("the ConfigMap %s names the adapters", self.name)

    def _explained(self, error: ApiFailed) -> ApiFailed:
        if not error.is_forbidden:
            return error
        return ApiFailed(
            f"the lora-server's service account may not write the ConfigMap {self.name}: bind it to a Role with get, "
            f"create and patch of configmaps ({error.message})",
            error.status,
        )
