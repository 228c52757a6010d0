"""Validates custom resources by definitions (CRDs, as YAML files) in a folder that the environment variable
CRD_DEFINITIONS names.

No installable package has LeaderWorkerSet's (github.com/kubernetes-sigs/lws, config/crd/bases) and those of Google's
policies (github.com/GoogleCloudPlatform/gke-gateway-api, config/crd; none is published for BackendConfig). Other kinds
are validated by their types: operator_types.py.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema.validators import Draft202012Validator


def violations_of_given(object: dict[str, Any]) -> list[str]:
    """Returns the errors by the definition in CRD_DEFINITIONS; none if there is no definition of this kind."""
    group, _, version = object["apiVersion"].rpartition("/")
    given = given_definitions().get((group, object["kind"]))
    if given is None:
        return []
    served = {each["name"]: each["schema"]["openAPIV3Schema"] for each in given["spec"]["versions"] if each["served"]}
    if version not in served:
        return [f"{object['kind']} has the versions {', '.join(served)}, not {version}"]
    return [error.message for error in Draft202012Validator(strict(served[version])).iter_errors(object)]


def given_definitions() -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the definitions in the folder CRD_DEFINITIONS by group and kind."""
    return _definitions(os.environ.get("CRD_DEFINITIONS", ""))


@cache
def _definitions(folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    files = sorted(Path(folder).glob("*.yaml")) if folder else []
    found = [each for file in files for each in yaml.load_all(file.read_text(), yaml.CSafeLoader)]
    return {(each["spec"]["group"], each["spec"]["names"]["kind"]): each for each in found}


def strict(schema: Any) -> Any:
    """Returns the schema changed so that it forbids unknown fields, as a server's strict validation does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not is_open:
        closed["additionalProperties"] = False
    return closed
