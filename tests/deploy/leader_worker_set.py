"""Validates the chart's LeaderWorkerSets, objects that run one engine on several nodes.

The schema here has the fields that the chart uses, after the API reference; pod templates are validated by Kubernetes'
own schema. No installable package contains the kind's definition (a CRD): crd_schemas.py says how to give it.
"""

from typing import Any

from jsonschema.validators import Draft202012Validator

from tests.deploy import kubernetes_schemas

Object = dict[str, Any]

TEMPLATE = {"type": "object", "required": ["spec"]}
GROUP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["size", "workerTemplate"],
    "properties": {
        "size": {"type": "integer", "minimum": 2},
        "restartPolicy": {"enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]},
        "leaderTemplate": TEMPLATE,
        "workerTemplate": TEMPLATE,
    },
}
SPEC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["leaderWorkerTemplate"],
    "properties": {
        "replicas": {"type": "integer", "minimum": 0},
        "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
        "leaderWorkerTemplate": GROUP,
    },
}
OBJECT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["spec"],
    "properties": {
        "apiVersion": {"const": "leaderworkerset.x-k8s.io/v1"},
        "kind": {"const": "LeaderWorkerSet"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": SPEC,
    },
}


def violations(object: Object) -> list[str]:
    """Returns what an API server with the definition would reject."""
    found = [error.message for error in Draft202012Validator(OBJECT).iter_errors(object)]
    group = object["spec"]["leaderWorkerTemplate"]
    for role in ("leaderTemplate", "workerTemplate"):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": role}, "template": group[role]}
        for version in kubernetes_schemas.VERSIONS:
            found += kubernetes_schemas.violations(template, version)
    return found
