"""The chart's, the overlays' and GitOps' objects of operators, validated by the types of the operators' own sources."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import CHART, PROJECT, HelmError
from tests.deploy.crd_schemas import violations_of_given
from tests.deploy.manifest_lint import Cluster
from tests.deploy.operator_types import INSTALLED, PACKAGES, is_typed, needs_operator_types, violations
from tests.deploy.random_values import random_values
from tests.deploy.rendering import OVERLAYS, chart, needs_helm, overlay
from tests.deploy.test_chart import GOOGLES, LLM_D, OPERATORS

Object = dict[str, Any]
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
GITOPS = sorted((PROJECT / "deploy" / "gitops").glob("*.yaml"))
UNTYPED = {*GOOGLES, *LLM_D, "LeaderWorkerSet"}
MONITOR: Object = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PodMonitor",
    "metadata": {"name": "gateway"},
    "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "metrics"}]},
}


@pytest.fixture(autouse=True)
def _types() -> None:
    needs_operator_types()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_objects_of_an_example_conform_to_their_operators_types(file: Path) -> None:
    needs_helm()
    operators = Cluster.of(chart("-f", str(file), "-n", "pointsman")).all(*OPERATORS)
    assert violations(operators) == []
    assert {object["kind"] for object in operators if not is_typed(object)} <= UNTYPED


def test_every_kind_of_an_operator_is_in_an_example_or_here() -> None:
    needs_helm()
    route = 'gateway.grpcRoute={"enabled": true, "parentRefs": [{"name": "edge"}]}'
    more = chart("--set-json", route, "--set", "tls.mode=certManager,tls.issuerRef.name=ca,tls.issuerRef.kind=Issuer")
    objects = Cluster.of(more).objects
    assert violations(objects) == []
    examples = (chart("-f", str(file), "-n", "pointsman") for file in EXAMPLES)
    kinds = {object["kind"] for each in examples for object in Cluster.of(each).objects}
    assert kinds | {object["kind"] for object in objects} >= OPERATORS


@pytest.mark.parametrize("what", OVERLAYS)
def test_objects_of_an_overlay_conform_to_their_operators_types(what: str) -> None:
    assert violations(Cluster.of(overlay(what)).objects) == []


@pytest.mark.parametrize("file", GITOPS, ids=lambda file: file.stem)
def test_an_example_of_gitops_conforms_to_its_operators_types(file: Path) -> None:
    objects = list(yaml.safe_load_all(file.read_text()))
    assert all(map(is_typed, objects))
    assert violations(objects) == []
    assert [found for each in objects for found in violations_of_given(each)] == []


def test_nodes_for_an_example_conform_to_karpenters_types() -> None:
    objects = list(yaml.safe_load_all((PROJECT / "deploy/k8s/nodes/eks-h100.yaml").read_text()))
    assert [object["kind"] for object in filter(is_typed, objects)] == ["NodePool", "EC2NodeClass"]
    assert violations(objects) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**MONITOR["spec"], "samplesLimit": 5}, "'\"samplesLimit\"' does not exist"),
        ({**MONITOR["spec"], "sampleLimit": "5"}, "'string' is not assignable to type 'number'"),
        ({"podMetricsEndpoints": []}, "'\"selector\"' is missing"),
    ],
    ids=["unknown", "of another type", "missing"],
)
def test_a_wrong_field_is_found(spec: Object, message: str) -> None:
    assert violations([MONITOR]) == []
    (found,) = violations([MONITOR, {**MONITOR, "spec": spec}])
    assert found.startswith("PodMonitor gateway: ")
    assert message in found


def test_a_version_that_an_operator_does_not_have_is_found() -> None:
    (found,) = violations([{**MONITOR, "apiVersion": "monitoring.coreos.com/v7"}])
    assert "Cannot find module" in found


@pytest.mark.parametrize("seed", range(8))
def test_objects_of_random_values_conform_to_their_operators_types(seed: int, tmp_path: Path) -> None:
    needs_helm()
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(random_values(seed)))
    try:
        rendered = chart("-f", str(tmp_path / "values.yaml"))
    except HelmError:
        return  # test_chart.py has the values that the chart refuses
    assert violations(Cluster.of(rendered).objects) == []


def test_a_route_with_a_misspelt_field_is_found() -> None:
    spec = {"rules": [{"backendRefs": [{"nome": "gateway"}]}]}
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": spec}
    assert any("nome" in found for found in violations([route]))


def test_every_package_is_installed_in_the_version_that_is_stated() -> None:
    stated = yaml.safe_load((PROJECT / "tests/deploy/operators/package.json").read_text())["dependencies"]
    found = {name: json.loads((INSTALLED / name / "package.json").read_text())["version"] for name in stated}
    assert found == stated, "make operator-types"
    assert {name.removeprefix("@kubernetes-models/") for name in stated} == {*PACKAGES.values(), "typescript"}
