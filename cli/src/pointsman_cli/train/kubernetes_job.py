"""Trainings as Jobs of Kubernetes: creates, follows and deletes them as the user of the kubeconfig.

The progress is read from the logs of the Job's pods, one after the other: the trainer's events, one JSON object a line.
"""

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from pointsman_servicekit.kubernetes import ApiFailed, open_api
from rich.console import Console

from pointsman_cli.errors import CommandError
from pointsman_cli.example import ExampleAdapter
from pointsman_cli.grpc_clients import Provenance, register_adapter
from pointsman_cli.train.kubernetes_manifest import (
    ANNOTATION,
    TRAIN_JOB_API,
    Manifests,
    Object,
    Registration,
)
from pointsman_cli.train.kubernetes_pods import Log, list_pods, read_pod
from pointsman_cli.train.kubernetes_reasons import warnings_of
from pointsman_cli.train.progress import Done, TrainingProgress

if TYPE_CHECKING:  # the extra `kubernetes`
    from lightkube import AsyncClient

FIELD_MANAGER = "pointsman"
POLL_SECONDS = 2.0
"""Seconds between two requests for the state of the Job and its pods."""
MAX_UNREACHABLE_SECONDS = 600.0
"""Seconds without an answer of the Kubernetes API after which following a Job ends with an error.

A restart of the API server takes minutes.
"""
LAST_LOOKS = 10
"""How often the log of a Job that has ended is requested, as long as it cannot be read to the end."""
NOT_FOUND = 404


async def create_training(manifests: Manifests) -> None:
    """Creates a training's Job in Kubernetes, then the ConfigMap with its data, which is deleted with the Job.

    Raises ApiFailed if the Kubernetes API rejects an object or does not answer; the Job is then deleted again. Raises
    CommandError if the Job cannot be deleted.
    """
    async with open_api(None, FIELD_MANAGER) as api:
        from httpx2 import HTTPStatusError
        from lightkube.resources.core_v1 import ConfigMap

        try:
            created = await api.create(_kind(manifests.job["apiVersion"])(manifests.job))
        except HTTPStatusError:
            raise
        except BaseException as error:  # it may exist nevertheless
            await _undo(api, manifests.job, error)
            raise
        owner = {name: manifests.job[name] for name in ("apiVersion", "kind")}
        owner |= {"name": manifests.name, "uid": created["metadata"]["uid"]}
        metadata = {**manifests.config_map["metadata"], "ownerReferences": [owner]}
        try:
            config_map: Any = ConfigMap.from_dict({**manifests.config_map, "metadata": metadata})
            await api.create(config_map)
        except BaseException as error:
            await _undo(api, manifests.job, error)
            raise


async def _undo(api: "AsyncClient", job: Object, cause: BaseException) -> None:
    """Deletes a Job if it exists; raises CommandError if that fails."""
    from httpx2 import HTTPError, HTTPStatusError

    try:
        await _delete(api, job)
    except HTTPError as error:
        if isinstance(error, HTTPStatusError) and error.response.status_code == NOT_FOUND:
            return
        name = f"{job['kind'].lower()}/{job['metadata']['name']}"
        raise CommandError(
            f"{str(cause) or 'interrupted'}; {name} may exist without its data; delete it: kubectl delete {name}"
        ) from error


async def cancel_training(name: str) -> None:
    """Deletes the Kubernetes Job of the training `name`, with its pods and its ConfigMap.

    Raises CommandError if there is no such training, and ApiFailed if the Kubernetes API rejects the call or does not
    answer.
    """
    async with open_api(None, FIELD_MANAGER) as api:
        await _delete(api, await _find(api, name))


async def follow_training(name: str, lora_server: str, console: Console) -> None:
    """Shows the progress of the training `name` in Kubernetes until it ends, then registers its adapter.

    `lora_server` is the address (HOST:PORT) of the lora-server; if it is empty, the command that registers the adapter
    is printed. Raises CommandError if the training fails or is deleted, or the Kubernetes API cannot be reached;
    ApiFailed if the API rejects a call; and a PointsmanError if the registration fails.
    """
    with TrainingProgress(console, name) as screen:
        log = Log(screen)
        try:
            job = await _follow(name, log)
        except asyncio.CancelledError:
            _say(console, f"{name} goes on: `pointsman jobs watch {name} --kubernetes` follows it, and")
            _say(console, f"`pointsman jobs cancel {name} --kubernetes` deletes it with its pods")
            raise
    done, registration = screen.done, _registration(job)
    if problem := _failure(job):
        raise CommandError(f"{name} failed: {log.error or '; '.join(filter(None, (problem, log.reason)))}")
    if done is None:
        raise CommandError(f"{name} ended, and the end of its log is gone: look for the adapter in its --out")
    _say(console, f"{done.folder} after {done.seconds:.0f} s")
    if done.must_be_merged:
        _say(console, "not registered: an engine cannot serve it as an adapter; serve the merged model")
    else:
        await _register(registration, done, lora_server, console)


async def _register(registration: Registration, done: Done, lora_server: str, console: Console) -> None:
    if not lora_server:
        alias = f" --alias {registration.alias}" if registration.alias else ""
        force = " --force" if registration.force else ""
        _say(console, "not registered, because no --lora-server was named; this does it:")
        _say(console, f"pointsman adapters register {registration.name} {done.folder}{alias}{force} --lora-server ...")
        return
    facts = dict(registration.facts)
    if "heldout_loss" in done.metrics:
        facts["heldout_loss"] = f"{done.metrics['heldout_loss']:.4f}"
    adapter = ExampleAdapter(registration.name, done.folder, registration.alias)
    registered = await register_adapter(lora_server, adapter, facts, Provenance(force=registration.force))
    _say(console, f"registered as {registered}")


async def _follow(name: str, log: Log) -> Object:
    """Passes on the logs of a training until it ends, and returns the Job."""
    answered, last_looks = 0.0, LAST_LOOKS
    while True:
        try:
            async with open_api(None) as api:
                while True:
                    job = await _find(api, name)  # before the logs, which are complete if it has ended
                    pods = await list_pods(api, job)
                    read = [await read_pod(api, pod, log) for pod in pods]
                    answered = time.monotonic()
                    if _condition(job, "Complete") or _failure(job):
                        last_looks -= 1
                        if all(read) or not last_looks:
                            return job
                    elif job["spec"].get("suspend"):
                        log.remark(f"{name} is suspended until its queue admits it")
                    else:
                        for warning in await warnings_of(api, job, pods):
                            log.explain(f"waiting: {warning}")
                    await asyncio.sleep(POLL_SECONDS)
        except ApiFailed as error:
            has_never_answered = not answered and not error.status
            answered = answered or time.monotonic()
            if has_never_answered or error.is_forbidden or time.monotonic() - answered > MAX_UNREACHABLE_SECONDS:
                raise CommandError(
                    f"{error.message}; {name} goes on: `pointsman jobs watch {name} --kubernetes` continues"
                ) from error
            log.remark(f"trying again for {MAX_UNREACHABLE_SECONDS / 60:.0f} minutes: {error.message}")
            await asyncio.sleep(POLL_SECONDS)


async def _find(api: "AsyncClient", name: str) -> Object:
    """Returns the Job or TrainJob of a training; raises CommandError if there is none."""
    from httpx2 import HTTPStatusError

    for version in ("batch/v1", TRAIN_JOB_API):
        try:
            found = await api.get(_kind(version), name)
        except HTTPStatusError as error:
            if error.response.status_code == NOT_FOUND:
                continue
            raise
        if ANNOTATION in (found["metadata"].get("annotations") or {}):
            return {"apiVersion": version, **found}
    raise CommandError(f"there is no training {name} in the namespace {api.namespace}, or it was deleted")


async def _delete(api: "AsyncClient", job: Object) -> None:
    from lightkube.types import CascadeType

    await api.delete(_kind(job["apiVersion"]), job["metadata"]["name"], cascade=CascadeType.FOREGROUND)


def _kind(version: str) -> Any:
    from lightkube.generic_resource import create_namespaced_resource

    group, _, number = version.partition("/")
    kind, plural = ("TrainJob", "trainjobs") if version == TRAIN_JOB_API else ("Job", "jobs")
    return create_namespaced_resource(group, number, kind, plural)


def _condition(job: Object, kind: str) -> Object | None:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def _failure(job: Object) -> str:
    """Returns why a Job has failed; empty if it has not."""
    failed = _condition(job, "Failed")
    return str(failed.get("message") or failed.get("reason") or "it failed") if failed else ""


def _registration(job: Object) -> Registration:
    return Registration(**json.loads(job["metadata"]["annotations"][ANNOTATION]))


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
