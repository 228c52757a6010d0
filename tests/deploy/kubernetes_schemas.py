"""Validates objects by Kubernetes' own schemas, strictly. The package kubernetes-validate would read its 2 MB of
schemas again for each object.
"""

import re
from functools import cache
from typing import Any

from jsonschema.validators import Draft202012Validator
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

VERSIONS = ("1.32", "1.37")


def violations(object: dict[str, Any], version: str) -> list[str]:
    """Returns the errors with which an API server of this version would reject the object. Raises FileNotFoundError
    for an unknown kind.
    """
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", object["apiVersion"])  # rbac.authorization.k8s.io/v1: rbac-v1
    return [error.message for error in _validator(version, f"{object['kind'].lower()}-{group}").iter_errors(object)]


def fields(kind: str, version: str) -> set[str]:
    """Returns the names of the fields of a part of the core API, such as PodSpec."""
    return set(_read(version, "_definitions")["$defs"][f"io.k8s.api.core.v1.{kind}"]["properties"])


@cache
def _validator(version: str, name: str) -> Draft202012Validator:
    registry: Registry[Any] = _definitions(version) @ Registry()
    return Draft202012Validator(_read(version, name), registry=registry)


@cache
def _definitions(version: str) -> Resource[Any]:
    return Resource.from_contents(_read(version, "_definitions"))


def _read(version: str, name: str) -> Any:
    (full,) = {each for each in all_versions() if each == version or each.startswith(f"{version}.")}
    return schema_contents(f"kubernetes-json-schema/v{full}-local-strict/{name}.json", version)
