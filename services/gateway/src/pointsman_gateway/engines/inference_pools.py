"""Finds the engines of a group by a Kubernetes InferencePool: the ready pods that it selects, each with the pool's
ports.

Pods are listed and then watched, so that a change is known at once. After `WATCH_SECONDS` or an error, pool and pods
are read again: this also finds a changed pool, and replaces an expired resource version or a dead connection.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_servicekit.kubernetes import ApiFailed, WatchEnded, get_or_none, open_api
from pointsman_servicekit.process import Backoff

from pointsman_gateway.config.engine_groups import PoolName, endpoint
from pointsman_gateway.engines.engine_group import EngineGroup

if TYPE_CHECKING:  # imported at the first lookup
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import Pod

log = logging.getLogger(__name__)

GROUP, VERSION = "inference.networking.k8s.io", "v1"
WATCH_SECONDS = 30.0
"""Maximum number of seconds for which the pods are watched; afterwards the pool and its pods are read again."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 30.0
"""Bounds of the pause before the pool is read again, in seconds.

There is a pause if the pods could not be read, or were watched for less than `RETRY_SECONDS`. It begins at
`RETRY_SECONDS`, and doubles each time up to `MAX_RETRY_SECONDS`; a random part of up to a half is subtracted.
"""
HTTP = "http"
"""The protocol that engines must speak: the default of the field `appProtocol` in a pool."""


async def watch_pool(group: EngineGroup, pool: PoolName, service_account: Path) -> None:
    """Updates the group's engines from the ready pods that the InferencePool selects, until cancelled.

    If the Kubernetes API does not answer or refuses, the group keeps its engines. If it answers that there is no such
    pool, or that no pod is ready, the group has no engines. `service_account` is the folder with the API's
    credentials.
    """
    wait, backoff = 0.0, Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
    while True:
        watch = _Watch(group, pool)
        try:
            async with open_api(service_account) as api:
                await watch.follow(api)
        except ApiFailed as error:
            if not error.is_expired:  # a version expires now and then: read anew
                group.lookup_failed(_explained(error, pool))
        except Exception:  # a bug must not end the loop: the members keep serving
            log.exception("engines %s: the lookup of InferencePool %s failed", group.name, pool)
        if watch.seconds >= RETRY_SECONDS:
            wait = 0.0
            continue
        wait = backoff.after(wait, 0.0)
        await asyncio.sleep(wait * random.uniform(0.5, 1.0))


@dataclass(slots=True)
class _Watch:
    """One reading of a pool and its pods, and the watch that follows it."""

    group: EngineGroup
    pool: PoolName
    began: float | None = None
    """The time on the event loop's clock at which the watch was requested; None before."""

    @property
    def seconds(self) -> float:
        """Returns for how many seconds the pods have been watched so far; 0 if they could not be read."""
        return asyncio.get_running_loop().time() - self.began if self.began is not None else 0.0

    async def follow(self, api: "AsyncClient") -> None:
        """Reads the InferencePool and its pods, then watches the pods and updates the group's engines after each
        change.

        Ends after `WATCH_SECONDS`, or when the API server ends the watch. Raises ApiFailed if the pool cannot be
        used, and the errors of the Kubernetes client library.
        """
        from lightkube.resources.core_v1 import Pod

        group, pool = self.group, self.pool
        read = await get_or_none(api, _resource(), pool.name, pool.namespace)
        if read is None:
            group.lookup_succeeded((), f"there is no InferencePool {pool}")
            return
        labels, ports = _read_spec(pool, read)
        listing = api.list(Pod, namespace=pool.namespace, labels=labels)
        endpoints = {_name(pod): _endpoints(pod, ports) async for pod in listing}
        group.lookup_succeeded(*_found(pool, endpoints), ends_failure=False)
        self.began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                async for change, pod in api.watch(
                    Pod,
                    namespace=pool.namespace,
                    labels=labels,
                    resource_version=listing.resourceVersion,
                    server_timeout=round(WATCH_SECONDS) + 5,
                ):
                    if change == "DELETED":
                        endpoints.pop(_name(pod), None)
                    else:
                        endpoints[_name(pod)] = _endpoints(pod, ports)
                    group.end_failure()
                    group.set_endpoints(*_found(pool, endpoints))
        except (TimeoutError, WatchEnded):
            group.end_failure()


@cache
def _resource() -> Any:
    from lightkube.generic_resource import create_namespaced_resource

    return create_namespaced_resource(GROUP, VERSION, "InferencePool", "inferencepools")


def _read_spec(pool: PoolName, read: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[int]]:
    """Returns the labels that the pool selects, and the ports of its engines or of their lora-servers."""
    spec = read.get("spec") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    ports = [port["number"] for port in spec.get("targetPorts") or ()]
    if not labels or not ports:
        raise ApiFailed(f"InferencePool {pool} has no selector.matchLabels or no targetPorts")
    if pool.port:
        return labels, [pool.port]
    protocol = spec.get("appProtocol") or HTTP
    if protocol != HTTP:
        raise ApiFailed(f"InferencePool {pool} has the appProtocol {protocol}, and engines are called by HTTP/1.1")
    return labels, ports


def _endpoints(pod: "Pod", ports: Sequence[int]) -> Sequence[str]:
    """Returns the pod's endpoints (HOST:PORT), one for each port; none if it is not ready or is being deleted."""
    status, metadata = pod.status, pod.metadata
    if status is None or not status.podIP or (metadata and metadata.deletionTimestamp):
        return ()
    if not any(each.type == "Ready" and each.status == "True" for each in status.conditions or ()):
        return ()
    return [endpoint(status.podIP, port) for port in ports]


def _name(pod: "Pod") -> str:
    return (pod.metadata and pod.metadata.name) or ""


def _found(pool: PoolName, endpoints: Mapping[str, Sequence[str]]) -> tuple[set[str], str]:
    """Returns the endpoints of all pods, and the reason if there are none. `endpoints` are those of each pod,
    by name.
    """
    found = {each for of_pod in endpoints.values() for each in of_pod}
    if found:
        return found, ""
    none_ready = f"none of its {len(endpoints)} pods is ready" if endpoints else "it selects no pod"
    return found, f"InferencePool {pool}: {none_ready}"


def _explained(error: ApiFailed, pool: PoolName) -> str:
    if error.status == 404:
        return (
            f"InferencePool {pool}: the cluster does not know {GROUP}/{VERSION}; install the Gateway API Inference "
            f"Extension ({error.message})"
        )
    if error.is_forbidden:
        return (
            f"the gateway's service account may not read InferencePool {pool}: bind it to a Role in namespace "
            f"{pool.namespace} with get of inferencepools.{GROUP}, and list and watch of pods ({error.message})"
        )
    return f"InferencePool {pool}: {error.message}"
