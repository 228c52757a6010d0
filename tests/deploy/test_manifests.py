"""The Kubernetes manifests: rendered, validated against schemas, and checked for consistency."""

import copy
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.operator_types import is_typed
from tests.deploy.planted import PLANTED, Planted
from tests.deploy.rendering import K8S, OVERLAYS, PROJECT, overlay, rendered, unscoped

RULES = PROJECT / "deploy" / "prometheus" / "rules"
POLICY = {"pointsman-policy": "", "pointsman-policy-prompts": "prompts", "pointsman-policy-tasks": "tasks"}
"""The policy's ConfigMaps, with the folder in the configuration that each provides."""


def _objects(text: str) -> list[dict[str, Any]]:
    return Cluster.of(text).objects


# -- each by itself


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", OVERLAYS)
def test_every_object_conforms_to_kubernetes_schemas(what: str, version: str) -> None:
    objects = [object for object in _objects(overlay(what)) if not is_typed(object)]
    assert [violation for object in objects for violation in violations(object, version)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_field_and_a_removed_kind_are_rejected(version: str) -> None:
    deployment = next(o for o in _objects(overlay("cpu")) if o["kind"] == "Deployment")
    slip = copy.deepcopy(deployment)
    slip["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert "enableServiceLink" in violations(slip, version)[0]
    with pytest.raises(FileNotFoundError):
        violations({**deployment, "apiVersion": "extensions/v1beta1"}, version)


def test_the_base_needs_no_custom_resource_definitions() -> None:
    assert not any(map(is_typed, _objects(overlay("dev"))))


# -- as a whole


@pytest.mark.parametrize("what", OVERLAYS)
def test_the_manifests_pass_all_rules(what: str) -> None:
    assert faults(Cluster.of(overlay(what))) == []


@pytest.fixture(scope="module")
def largest() -> Cluster:
    return Cluster.of(overlay("gpu"))


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.how)
def test_an_inserted_fault_is_found(planted: Planted, largest: Cluster) -> None:
    cluster = largest.copied()
    planted.plant(cluster)
    assert planted.rule in {fault.rule for fault in faults(cluster)}


def test_every_rule_has_a_fault_that_tests_it() -> None:
    sources = "".join(file.read_text() for file in (Path(__file__).parent / "manifest_lint").glob("*.py"))
    rules = set(re.findall(r'Fault\(\s*"([^"]+)"', sources)) | set(
        re.findall(r'^            "([^"]+)": ', sources, re.M)
    )
    assert rules == {planted.rule for planted in PLANTED}


# -- made from other files


def test_the_manifests_contain_the_tested_prometheus_rules() -> None:
    rule = next(object for object in _objects(overlay("cpu")) if object["kind"] == "PrometheusRule")
    groups = [g for file in sorted(RULES.glob("*.yml")) for g in yaml.safe_load(file.read_text())["groups"]]
    assert unscoped(rule["spec"]["groups"], "pointsman") == groups


def test_promtool_accepts_the_rendered_rules(say: Any, tmp_path: Path) -> None:
    rule = next(object for object in _objects(overlay("cpu")) if object["kind"] == "PrometheusRule")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    assert "SUCCESS" in say("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yml"))


def test_the_manifests_contain_the_generated_dashboards() -> None:
    folder = PROJECT / "deploy" / "grafana" / "dashboards"
    maps = [o for o in _objects(overlay("cpu")) if o["metadata"].get("labels", {}).get("grafana_dashboard")]
    carried = {name: text for map_ in maps for name, text in map_["data"].items()}
    assert carried == {file.name: file.read_text() for file in folder.glob("*.json")}


def test_the_config_maps_contain_the_examples_whole_configuration() -> None:
    folder = PROJECT / "examples" / "helpdesk" / "config"
    maps = {object["metadata"]["name"]: object for object in _objects(overlay("cpu")) if object["kind"] == "ConfigMap"}
    for name, inside in POLICY.items():
        files = {file.name: file.read_text() for file in (folder / inside).iterdir() if file.is_file()}
        assert maps[name]["data"] == {n: text for n, text in files.items() if n != "kustomization.yaml"}


def test_the_documented_overlay_replaces_the_policy_in_the_same_namespace(tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "kubernetes.md").read_text()
    (overlay,) = (
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Kustomization" in block
    )
    example = PROJECT / "examples" / "helpdesk" / "config"
    (tmp_path / "tasks").mkdir()
    for name in ("models.yaml", "paths.yaml", "tasks.yaml"):
        shutil.copy(example / name, tmp_path / name)
    (tmp_path / "tasks" / "invoices.jsonl").write_text('{"text": "Where is my invoice?"}\n')
    cpu = os.path.relpath(K8S / "overlays" / "cpu", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("../deploy/k8s/overlays/cpu", cpu))
    cluster = Cluster.of(rendered(tmp_path))
    policies = [o for o in cluster.all("ConfigMap") if o["metadata"]["name"].startswith("pointsman-policy")]
    data = {o["metadata"]["name"]: set(o["data"]) for o in policies}
    assert data["pointsman-policy-tasks"] == {"invoices.jsonl"}
    assert data.keys() == POLICY.keys()
    assert {o["metadata"]["namespace"] for o in policies} == {"pointsman"}
    image = cluster.workload("gateway").pod["containers"][0]["image"]
    assert image.startswith("registry.example/team/pointsman-gateway:")
    assert faults(cluster) == []


def test_the_monitors_limits_equal_those_of_the_local_prometheus() -> None:
    config = yaml.safe_load((PROJECT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    jobs = {job.pop("job_name"): job for job in config["scrape_configs"]}
    for monitor in (object for object in _objects(overlay("cpu")) if object["kind"] == "PodMonitor"):
        wanted = {
            key: value
            for key, value in jobs[f"pointsman-{monitor['metadata']['name']}"].items()
            if key.endswith("limit")
        }
        assert {key: monitor["spec"][_camel(key)] for key in wanted} == wanted


def _camel(key: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), key)
