"""Says in one line why a pod of a training waits or has stopped."""

from typing import TYPE_CHECKING, Any

from pointsman_cli.train.kubernetes_manifest import RUNTIME_JOB, TRAIN_JOB_API, Object

if TYPE_CHECKING:  # the extra `kubernetes`
    from collections.abc import Sequence

    from lightkube import AsyncClient

STARTING = ("", "ContainerCreating", "PodInitializing")
"""The reasons that Kubernetes states for a waiting container that is about to start.

If such a container does not start, only the events of the cluster say why.
"""
OUT_OF_MEMORY = "OOMKilled"
FORBIDDEN = 403


def container_of(pod: Any) -> Any:
    """Returns the status of the pod's container that trains; None if the pod has no container status yet."""
    containers = {each.name: each for each in (pod.status and pod.status.containerStatuses) or ()}
    return containers.get("training") or containers.get(RUNTIME_JOB)


def end_of(container: Any) -> Any:
    """Returns how the container's last run ended; None if it runs or has not begun."""
    if not container or not container.state:
        return None
    waits_for_restart = container.state.waiting and container.lastState
    return container.state.terminated or (container.lastState.terminated if waits_for_restart else None)


def why_waiting(pod: Any) -> str:
    """Returns why the pod is not scheduled, or its container not started; empty if no reason is known."""
    for condition in (pod.status and pod.status.conditions) or ():
        if condition.type == "PodScheduled" and condition.status == "False" and condition.message:
            return str(condition.message)
    container = container_of(pod)
    waiting = container and container.state and container.state.waiting
    return _line(waiting) if waiting and (waiting.reason or "") not in STARTING else ""


def why_stopped(pod: Any) -> str:
    """Returns why the pod was stopped or its container failed; empty if neither has happened."""
    for condition in (pod.status and pod.status.conditions) or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return _line(condition)
    if pod.status and pod.status.reason:
        return _line(pod.status)
    ended = end_of(container_of(pod))
    if not ended or not ended.exitCode:
        return ""
    if ended.reason == OUT_OF_MEMORY:
        return f"{OUT_OF_MEMORY}: it needs more memory than its limit: raise resources.limits.memory in the Job's file"
    return f"exit code {ended.exitCode}"


async def warnings_of(api: "AsyncClient", job: Object, pods: "Sequence[Any]") -> list[str]:
    """Returns the cluster's warnings on a Job whose containers do not start, such as a quota or a missing volume.

    The list is empty if the newest pod itself says why it waits, or the user may not list events.
    """
    from httpx2 import HTTPStatusError
    from lightkube.resources.core_v1 import Event

    name = job["metadata"]["name"]
    names = [name, f"{name}-{RUNTIME_JOB}-0"] if job["apiVersion"] == TRAIN_JOB_API else [name]
    if pods:
        names = [pods[-1].metadata.name] if _is_starting(pods[-1]) else []
    try:
        lists = [api.list(Event, fields={"involvedObject.name": each, "type": "Warning"}) for each in names]
        return [_line(event) for events in lists async for event in events]
    except HTTPStatusError as error:
        if error.response.status_code == FORBIDDEN:
            return []
        raise


def _is_starting(pod: Any) -> bool:
    container = container_of(pod)
    has_begun = container and container.state and (container.state.running or end_of(container))
    return not (has_begun or why_waiting(pod) or why_stopped(pod))


def _line(found: Any) -> str:
    return ": ".join(filter(None, (found.reason, found.message)))
