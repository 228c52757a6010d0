"""Publishes the names of a base model's adapter versions in the Kubernetes ConfigMap that llm-d's inference payload
processor reads.

With it, the processor finds the base model of a request and sets the header X-Gateway-Base-Model-Name, by which the
request is routed: https://github.com/llm-d/llm-d-inference-payload-processor, pkg/plugins/basemodelextractor. All
lora-servers of a base model write the same content, from the aliases in Redis.
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
"""The label of the ConfigMaps that llm-d's processor reads; its value is "true"."""
FIELD_MANAGER = "pointsman-lora-server"
MAX_BYTES = 900_000
"""The largest size of the list of names, in bytes. Kubernetes limits a ConfigMap to 1 MiB."""
CHECK_SECONDS = 2.0
"""Seconds between two checks whether the aliases have changed."""
FRESH_SECONDS = 60.0
"""The ConfigMap is only written if the aliases were read from Redis within this many seconds, because a lora-server
without Redis must not undo changes of the others."""
REPAIR_SECONDS = 300.0
"""Seconds between two reads of the ConfigMap while no alias changes. If somebody else has changed the ConfigMap, it is
written again then."""
MAX_RETRY_SECONDS = 60.0
"""The longest wait between two attempts if writes fail, in seconds. The waits begin with `CHECK_SECONDS` and are
doubled; each is shortened at random by up to a half."""
MAX_ATTEMPTS = 5
"""The largest number of attempts to write if other lora-servers write at the same time."""


def published_names(aliases: Iterable[Alias]) -> Sequence[str]:
    """Returns the names of the versions to which the aliases point, canaries included, sorted. The aliases themselves
    are left out: engines do not know them, so a request for an alias must not be routed to an engine.
    """
    return sorted({name for alias in aliases for name in alias.versions})


@dataclass(frozen=True, slots=True)
class ConfigMapPublisher:
    """Keeps the list of names in the ConfigMap `name`, in the pod's namespace, equal to the names of the current
    aliases' versions.
    """

    name: str
    base_model: str
    service_account: Path
    aliases: Callable[[], tuple[Alias, ...] | None]
    """A function that returns the current aliases, or None if they are unknown or were not read recently; nothing is
    written then."""

    async def run(self) -> None:
        """Writes the ConfigMap after each change of the aliases, until cancelled. A write that fails is retried, and
        its error is logged once.
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
        """Makes the ConfigMap contain exactly these names; writes nothing if it already does.

        Raises ApiFailed if the Kubernetes API rejects the write or does not answer, if the ConfigMap belongs to another
        base model, or if the names do not fit in it. Also raises ApiFailed if `names` is empty but the ConfigMap has
        names: aliases are never deleted, so Redis must have lost its data.
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
