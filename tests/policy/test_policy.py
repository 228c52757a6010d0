"""Checkov reports no finding in the manifests and Dockerfiles, except those that deploy/policy/checkov.yaml
excludes."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendering import PROJECT, overlay, training

CHECKOV = PROJECT / ".venv-policy" / "bin" / "checkov"
CONFIG = PROJECT / "deploy" / "policy" / "checkov.yaml"
WITHOUT_POLICIES = "CKV2_K8S_6"
DOCKER = PROJECT / "deploy" / "docker"


def _failed(folder: Path, more: Sequence[str] = ()) -> set[tuple[str, str]]:
    """Returns the failed checks, each with its object or file."""
    if not CHECKOV.exists():
        pytest.skip("checkov is not installed: make test-policy")
    command = [str(CHECKOV), "--config-file", str(CONFIG), "-d", str(folder), "-o", "json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    body = json.loads(done.stdout)
    reports = body if isinstance(body, list) else [body]
    checked = [report for report in reports if "results" in report]
    assert checked, done.stdout + done.stderr
    assert sum(report["summary"]["parsing_errors"] for report in checked) == 0
    assert sum(report["summary"]["passed"] for report in checked) > 0
    return {(f["check_id"], f["resource"]) for report in checked for f in report["results"]["failed_checks"]}


def test_the_manifests_pass_the_policy(tmp_path: Path) -> None:
    for name in ("cpu", "gpu"):
        (tmp_path / f"{name}.yaml").write_text(overlay(name))
    job = yaml.safe_load(training())
    job["metadata"]["namespace"] = "pointsman"  # as `kubectl --namespace` does
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(job))
    assert _failed(tmp_path) == set()


def test_the_development_overlay_lacks_only_network_policies(tmp_path: Path) -> None:
    (tmp_path / "dev.yaml").write_text(overlay("dev"))
    assert {check for check, _ in _failed(tmp_path)} == {WITHOUT_POLICIES}


def test_a_privileged_container_and_one_without_probes_are_found(tmp_path: Path) -> None:
    deployment = next(o for o in yaml.safe_load_all(overlay("dev")) if o["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["privileged"] = True
    del container["readinessProbe"]
    (tmp_path / "spoilt.yaml").write_text(yaml.safe_dump(deployment))
    assert {check for check, _ in _failed(tmp_path)} == {"CKV_K8S_16", "CKV_K8S_9", WITHOUT_POLICIES}


def test_the_dockerfiles_pass_the_policy_and_contain_no_secret() -> None:
    assert _failed(DOCKER) == set()


def test_a_dockerfile_that_runs_as_root_is_found(tmp_path: Path) -> None:
    text = (DOCKER / "gateway.Dockerfile").read_text()
    (tmp_path / "gateway.Dockerfile").write_text(text.replace("USER 10001:10001\n", "").replace("HEALTHCHECK", "# "))
    assert {"CKV_DOCKER_3"} <= {check for check, _ in _failed(tmp_path)}
