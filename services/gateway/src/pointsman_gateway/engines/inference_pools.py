"""Finds the members of a group of engines by an InferencePool: the ready pods that it selects, each with its ports.

Pods are listed and then watched, so that a change is known at once. After `WATCH_SECONDS` or an error, pool and
pods are read anew: this also finds a changed pool, and repairs an expired version and a dead connection.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman_servicekit.kubernetes import ApiFailed, open_api

from pointsman_gateway.config.engine_groups import PoolName, endpoint
from pointsman_gateway.engines.engine_group import EngineGroup

if TYPE_CHECKING:  # imported at the first lookup
    from lightkube import AsyncClient
    from lightkube.resources.core_v1 import Pod

log = logging.getLogger(__name__)

GROUP, VERSION = "inference.networking.k8s.io", "v1"
WATCH_SECONDS = 30.0
"""How long pods are watched until pool and pods are read anew."""
RETRY_SECONDS = 1.0
"""Seconds between two readings of the pool if a watch or a reading fails."""
HTTP = "http"
"""The protocol of engines, and the default of a pool's `appProtocol`."""


async def watch_pool(group: EngineGroup, pool: PoolName, service_account: Path) -> None:
    """Keeps the group's members up to date with the pods of the pool, until cancelled.

    If the API does not answer or refuses, the members stay. If it answers that no pod is ready, there are none.
    """
    while True:
        try:
            async with open_api(service_account) as api:
                await _follow(group, pool, api)
                continue
        except ApiFailed as error:
            if error.status != 410:  # the version has expired, as happens now and then: read anew
                group.lookup_failed(_explained(error, pool))
        except Exception:  # a bug must not end the loop: the members keep serving
            log.exception("engines %s: the lookup of InferencePool %s failed", group.name, pool)
        await asyncio.sleep(RETRY_SECONDS)


async def _follow(group: EngineGroup, pool: PoolName, api: "AsyncClient") -> None:
    """Reads the pool and its pods, then watches these for `WATCH_SECONDS`.

    Raises ApiFailed if the pool cannot be used, and the library's errors.
    """
    from lightkube.resources.core_v1 import Pod

    labels, ports = _read_spec(pool, await api.get(_resource(), pool.name, namespace=pool.namespace))
    listing = api.list(Pod, namespace=pool.namespace, labels=labels)
    endpoints = {_name(pod): _endpoints(pod, ports) async for pod in listing}
    group.lookup_succeeded(*_found(pool, endpoints))
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
                elif change in ("ADDED", "MODIFIED"):
                    endpoints[_name(pod)] = _endpoints(pod, ports)
                group.set_endpoints(*_found(pool, endpoints))
    except TimeoutError:
        pass


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
    """Returns all endpoints, given those of each pod, and why there are none."""
    found = {each for of_pod in endpoints.values() for each in of_pod}
    if found:
        return found, ""
    none_ready = f"none of its {len(endpoints)} pods is ready" if endpoints else "it selects no pod"
    return found, f"InferencePool {pool}: {none_ready}"


def _explained(error: ApiFailed, pool: PoolName) -> str:
    if error.status == 404:
        return (
            f"there is no InferencePool {pool}, or the cluster does not know {GROUP}/{VERSION}, which belongs to the "
            f"Gateway API Inference Extension ({error.message})"
        )
    if error.status in (401, 403):
        return (
            f"the gateway's service account may not read InferencePool {pool}: bind it to a Role in namespace "
            f"{pool.namespace} with get of inferencepools.{GROUP}, and list and watch of pods ({error.message})"
        )
    return f"InferencePool {pool}: {error.message}"
