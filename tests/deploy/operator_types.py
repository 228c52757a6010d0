"""Validates operators' objects by types that are generated from the operators' own sources, strictly: an unknown field,
a missing one, or one of another type is an error.

`make operator-types` installs the types and a compiler in the versions of operators/package-lock.json. No package has
types of LeaderWorkerSet and of Google's policies: leader_worker_set.py and crd_schemas.py say what validates these.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deploy.helm.render import PROJECT

INSTALLED = PROJECT / ".pointsman" / "tools" / "operators" / "node_modules"
PACKAGES = {
    "argoproj.io": "argo-cd",
    "cert-manager.io": "cert-manager",
    "external-secrets.io": "external-secrets",
    "gateway.networking.k8s.io": "gateway-api",
    "helm.toolkit.fluxcd.io": "flux-cd",
    "karpenter.k8s.aws": "karpenter",
    "karpenter.sh": "karpenter",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
    "source.toolkit.fluxcd.io": "flux-cd",
}
"""By API group, the package that has its types."""

_ERROR = re.compile(r"^objects\.ts\((\d+),\d+\): error TS\d+: (.*)$", re.MULTILINE)
_PATIENCE = 120
"""Time limit of the compiler in seconds."""


def needs_operator_types() -> None:
    """Skips the test if the types are not installed."""
    if not INSTALLED.with_name(".done").exists():
        pytest.skip("the operators' types are not installed: make operator-types")


def is_typed(object: dict[str, Any]) -> bool:
    """Returns whether a package has the types of the object's API group."""
    return _group(object) in PACKAGES


def violations(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the errors in those objects whose group has types, each with the object's kind and name. Raises
    RuntimeError if the compiler fails.
    """
    typed = [object for object in objects if is_typed(object)]
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder) / "objects.ts").write_text("\n".join(map(_assignment, typed)))
        options = ("--strict", "--noEmit", "--skipLibCheck", "--pretty", "false", "--types", "", "--ignoreConfig")
        modules = ("--module", "nodenext", "--moduleDetection", "force")
        (Path(folder) / "node_modules").symlink_to(INSTALLED)
        command = [str(INSTALLED / ".bin" / "tsc"), *options, *modules, source.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    found = _ERROR.findall(done.stdout)
    if done.returncode and not found:
        raise RuntimeError(done.stdout + done.stderr)
    return [f"{_name(typed[int(line) - 1])}: {message}" for line, message in found]


def _assignment(object: dict[str, Any]) -> str:
    """Returns one line of TypeScript."""
    group, _, version = object["apiVersion"].partition("/")
    module = f"@kubernetes-models/{PACKAGES[group]}/{group}/{version}/{object['kind']}"
    return f'(({json.dumps(object)}) satisfies import("{module}").I{object["kind"]});'


def _group(object: dict[str, Any]) -> str:
    return str(object["apiVersion"]).partition("/")[0]


def _name(object: dict[str, Any]) -> str:
    return f"{object['kind']} {object['metadata']['name']}"
