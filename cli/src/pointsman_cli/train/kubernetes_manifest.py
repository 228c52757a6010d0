"""Makes the Kubernetes objects of a training: a Job or a TrainJob, and a ConfigMap with the data.

They are made from a Job that the Helm chart has rendered, with the image, the base model and the volumes of the
installation. The command adds the data and its own options, which override those in the Job.
"""

import base64
import gzip
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pointsman_cli.errors import UsageError
from pointsman_cli.train.options import TrainingJob

Object = dict[str, Any]

DATA_FOLDER = PurePosixPath("/etc/pointsman/training")
"""The folder in the pod at which the ConfigMap with the training data is mounted."""
DATA_VOLUME = "training-data"
MAX_CONFIG_MAP_BYTES = 900_000
"""Maximum bytes of all files in the ConfigMap; if they have more, they are compressed. Kubernetes allows 1 MiB."""
MAX_NAME = 32
"""Maximum characters of the adapter's name in the Job's name.

The names of a TrainJob's pods have 15 more characters than the TrainJob's, and 63 at most.
"""
SECRET = re.compile(r"(?i)(token|secret|password|key)$")
"""Matches the names of environment variables that hold secrets; `read_job` rejects a Job with the value of one."""
MAX_SECONDS = 86_400
"""The deadline in seconds of a Job whose file names none; it also ends a Job that is never scheduled."""
ANNOTATION = "pointsman/registration"
"""The Job's annotation that says how to register the trained adapter, as JSON with the fields of `Registration`."""

TRAIN_JOB_API = "trainer.kubeflow.org/v1alpha1"
RUNTIME_JOB = "node"
"""The name that Kubeflow's runtimes for PyTorch give to both the job and the container that train."""
MANAGER = "pointsman"
PATCHED_FIELDS = (
    "serviceAccountName", "volumes", "imagePullSecrets", "securityContext", "nodeSelector", "affinity", "tolerations"
)  # fmt: skip
"""Names of the pod's fields that a TrainJob may set. The TrainJob's runtime sets all other fields."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How the adapter that a training makes is registered: its name, the alias to move, and facts for its manifest.

    `force` says whether the alias is moved even if the evaluation found that prompting the base model is as good.
    """

    name: str
    """The adapter's name."""
    alias: str = ""
    """The alias that the lora-server moves to the new version; if it is empty, no alias is moved."""
    force: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifests:
    """The Kubernetes objects of one training: the Job (or TrainJob), and a ConfigMap of the same name with the data."""

    job: Object
    config_map: Object

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    def as_yaml(self) -> str:
        return yaml.safe_dump_all([self.config_map, self.job], sort_keys=False)


def read_job(file: Path) -> Object:
    """Reads the file of YAML with the Job that the chart has rendered for trainings, and returns the Job.

    Raises UsageError if the file cannot be read, does not have exactly one Job, or the Job does not run the trainer,
    names a namespace or contains a secret.
    """
    try:
        objects = [each for each in yaml.safe_load_all(file.read_text("utf-8")) if isinstance(each, dict)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--on-kubernetes {file} cannot be read: {error}") from error
    jobs = [each for each in objects if each.get("kind") == "Job"]
    try:
        (job,) = jobs
        options = _options(container_of(job)["args"])
        complete = "base-model" in options and "out" in options and isinstance(job["metadata"], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise UsageError(
            f"--on-kubernetes {file} is not one Job of the trainer with --base-model and --out; render it: helm "
            "template ... --show-only templates/training.yaml --set training.name=NAME"
        )
    if namespace := job["metadata"].get("namespace"):
        raise UsageError(
            f"--on-kubernetes {file} names the namespace {namespace}: leave it out, because the kubeconfig's counts "
            f"(kubectl config set-context --current --namespace={namespace})"
        )
    for variable in container_of(job).get("env") or ():
        if isinstance(variable, dict) and "value" in variable and SECRET.search(str(variable.get("name"))):
            raise UsageError(
                f"--on-kubernetes {file} has the value of {variable['name']}, which all who may read Jobs would "
                "see: put it into a Secret and name that by valueFrom.secretKeyRef"
            )
    return job


def container_of(job: Object) -> Object:
    """Returns the container in the pod template of a Job, which must have exactly one."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def training_manifests(template: Object, job: TrainingJob, registration: Registration) -> Manifests:
    """Returns the Kubernetes objects that run the training `job`, made from the Job `template` under a new name.

    The Job's annotation has `registration`. With the training option "processes", each container gets as many GPUs as
    processes, if the template's container has any GPU. Raises UsageError if the job's files cannot be read or are too
    large for a ConfigMap.
    """
    result = deepcopy(template)
    run = secrets.token_hex(3)
    name = f"training-{job.name.replace('_', '-')[:MAX_NAME].strip('-')}-{run}"
    files = {"data": job.data, "eval-data": job.heldout, "system": job.system}
    config_map, paths = _config_map({option: file for option, file in files.items() if file is not None})
    config_map["metadata"] = {"name": name, "labels": template["metadata"].get("labels", {})}
    container, pod = container_of(result), result["spec"]["template"]["spec"]
    options = _options(container["args"])
    own = {"name": job.name, "method": job.method, **paths, **job.options}
    for folder in ("out", "checkpoint"):  # of this run alone: another one may train the same adapter
        if folder in options:
            own[folder] = PurePosixPath(str(options[folder])).parent / f"{job.name}-{run}"
    options |= {option: value for option, value in own.items() if value is not None and value is not False}
    container["args"] = [f"--{option}" if value is True else f"--{option}={value}" for option, value in options.items()]
    if processes := job.options.get("processes"):
        _set_gpus(container.get("resources") or {}, processes)
    pod.setdefault("volumes", []).append({"name": DATA_VOLUME, "configMap": {"name": name}})
    mount = {"name": DATA_VOLUME, "mountPath": str(DATA_FOLDER), "readOnly": True}
    container.setdefault("volumeMounts", []).append(mount)
    result["spec"].setdefault("activeDeadlineSeconds", MAX_SECONDS)
    metadata = result["metadata"] = {**result["metadata"], "name": name}
    metadata["annotations"] = {**metadata.get("annotations", {}), ANNOTATION: json.dumps(asdict(registration))}
    return Manifests(result, config_map)


def as_train_job(job: Object, runtime: str) -> tuple[Object, Sequence[str]]:
    """Converts a training's Job to a TrainJob of the ClusterTrainingRuntime named `runtime`.

    Also returns the names of the pod's fields that are lost, because the runtime decides them.
    """
    template, container, spec = job["spec"]["template"], container_of(job), job["spec"]
    pod = template["spec"]
    given = ("image", "command", "args", "env")
    trainer = {name: container[name] for name in given if name in container} | {"numNodes": 1}
    if "resources" in container:
        trainer["resourcesPerNode"] = container["resources"]
    patched = {name: container[name] for name in ("volumeMounts", "securityContext") if name in container}
    pod_patch = {name: pod[name] for name in PATCHED_FIELDS if name in pod}
    pod_patch["containers"] = [{"name": RUNTIME_JOB, **patched}]
    labels = {name: of for name, of in template.get("metadata", {}).items() if name in ("labels", "annotations")}
    jobs = [{"name": RUNTIME_JOB, "template": {"spec": {"template": {"metadata": labels, "spec": pod_patch}}}}]
    patch = {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    limits = {name: spec[name] for name in ("suspend", "activeDeadlineSeconds") if name in spec}
    body = {"runtimeRef": {"name": runtime}, "trainer": trainer, "runtimePatches": [patch], **limits}
    lost = sorted(set(pod) - {*PATCHED_FIELDS, "containers", "restartPolicy"})
    return {"apiVersion": TRAIN_JOB_API, "kind": "TrainJob", "metadata": job["metadata"], "spec": body}, lost


def _options(arguments: Sequence[str]) -> dict[str, object]:
    """Returns the options of a command line whose arguments are "--name=value" or "--flag"."""
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments)
    return {name: value if equals else True for name, equals, value in pairs}


def _set_gpus(resources: Mapping[str, Object], count: object) -> None:
    for amounts in resources.values():
        for resource in amounts:
            if resource.endswith("/gpu"):
                amounts[resource] = str(count)


def _config_map(files: Mapping[str, Path]) -> tuple[Object, Mapping[str, str]]:
    """Returns a ConfigMap, without metadata, of the files; and the trainer's options with the paths in the pod."""
    try:
        texts = {option: file.read_text("utf-8") for option, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the training data cannot be read: {error}; name files of UTF-8 text") from error
    keys = {option: f"{option}.txt" if option == "system" else f"{option}.jsonl" for option in texts}
    text = {keys[option]: text for option, text in texts.items()}
    body: Object = {"data": text}
    if sum(len(each.encode()) for each in text.values()) > MAX_CONFIG_MAP_BYTES:
        packed = {option: gzip.compress(text.encode(), mtime=0) for option, text in texts.items()}
        if (size := sum(map(len, packed.values()))) > MAX_CONFIG_MAP_BYTES:
            raise UsageError(
                f"the training data have {size:,} bytes compressed, and a Job's ConfigMap holds "
                f"{MAX_CONFIG_MAP_BYTES:,}: copy the data to the adapters' claim, and set training.data "
                "(docs/kubernetes.md)"
            )
        keys = {option: f"{key}.gz" for option, key in keys.items()}
        body = {"binaryData": {keys[option]: base64.b64encode(each).decode() for option, each in packed.items()}}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, **body}
    return config_map, {option: str(DATA_FOLDER / key) for option, key in keys.items()}
