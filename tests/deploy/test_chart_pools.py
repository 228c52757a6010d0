"""The chart's objects for the Gateway API Inference Extension and llm-d, and the permissions that they need."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import HelmError
from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import needs_helm, render
from tests.deploy.test_chart import env_of
from tests.deploy.test_chart_examples import example

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def test_a_pool_selects_the_pods_of_its_engine_and_their_port() -> None:
    cluster = example("llm-d")
    (pool,) = cluster.all("InferencePool")
    (workload,) = cluster.selected(pool["spec"]["selector"])
    assert workload.name == "lora-server"
    assert [port["number"] for port in pool["spec"]["targetPorts"]] == [workload.ports["engine"]]
    objectives = {each["metadata"]["name"]: each["spec"]["priority"] for each in cluster.all("InferenceObjective")}
    assert objectives == {"priority-10": 10, "priority--10": -10}
    route = cluster.get("HTTPRoute", "lora-server")
    assert route
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"][0]["name"] == pool["metadata"]["name"]


def test_each_permission_is_for_named_objects_and_one_container_has_the_token() -> None:
    cluster = example("llm-d")
    rules = {
        (role["metadata"].get("namespace"), rule["resources"][0]): (rule["verbs"], rule.get("resourceNames"))
        for role in cluster.all("Role")
        for rule in role["rules"]
    }
    config_map = env_of(cluster, "lora-server")["POINTSMAN_LORA_CONFIG_MAP"]
    assert cluster.has("ConfigMap", config_map)
    assert rules == {
        ("models", "inferencepools"): (["get"], ["llama"]),
        ("models", "pods"): (["list", "watch"], None),
        ("pointsman", "inferencepools"): (["get"], ["lora-server"]),
        ("pointsman", "pods"): (["list", "watch"], None),
        ("pointsman", "configmaps"): (["get", "patch"], [config_map]),
    }
    with_token = {
        container["name"]
        for workload in cluster.workloads
        for container in workload.containers
        if TOKEN in [mount["mountPath"] for mount in container.get("volumeMounts", ())]
    }
    assert with_token == {"gateway", "lora-server"}


def test_without_these_values_nothing_may_speak_to_the_api(tmp_path: Path) -> None:
    cluster = render(tmp_path, {})
    assert not cluster.all("Role", "RoleBinding", "InferencePool", "InferenceObjective")
    assert "serviceAccountToken" not in yaml.safe_dump(cluster.objects)


def test_further_nodes_of_an_engine_have_no_token_for_the_api(tmp_path: Path) -> None:
    nodes = {"name": "a", "kind": "cuda", "nodes": 2, "gpu": {"count": 1}, "model": {"source": "pvc:model"}}
    store = {"adapters": {"store": {"accessMode": "ReadWriteMany"}}}
    cluster = render(tmp_path, {"engines": [{**nodes, "publishAdapters": True}], **store})
    (group,) = cluster.all("LeaderWorkerSet")
    pods = group["spec"]["leaderWorkerTemplate"]
    assert "serviceAccountToken" in yaml.safe_dump(pods["leaderTemplate"])
    worker = yaml.safe_dump(pods["workerTemplate"])
    assert not [word for word in ("serviceAccountToken", "kubernetes-api", "CONFIG_MAP") if word in worker]


def test_policies_let_the_pools_gateway_in_and_lead_to_the_api_at_its_addresses_only(tmp_path: Path) -> None:
    peers = [{"podSelector": {"matchLabels": {"app": "epp"}}}]
    policy = {"enabled": True, "engineClients": peers, "egress": {"kubernetesApi": ["10.0.0.1/32"]}}
    cluster = render(tmp_path, {"networkPolicy": policy, "gateway": {"inferencePools": [{"name": "llama"}]}})
    (rule,) = _policy(cluster, "lora-server-from-engine-clients")["ingress"]
    assert rule == {"from": peers, "ports": [{"protocol": "TCP", "port": "engine"}]}
    egress = _policy(cluster, "gateway-to-outside")["egress"]
    (api,) = (rule for rule in egress if 6443 in [port["port"] for port in rule["ports"]])
    assert api["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]


def _policy(cluster: Cluster, name: str) -> Any:
    found = cluster.get("NetworkPolicy", name)
    assert found
    return found["spec"]


def test_policies_let_only_those_reach_the_api_that_need_it(tmp_path: Path) -> None:
    values = {"networkPolicy": {"enabled": True}, "gateway": {"inferencePools": [{"name": "llama"}]}}
    cluster = render(tmp_path, values)
    reaching = {
        policy["metadata"]["name"]
        for policy in cluster.all("NetworkPolicy")
        for rule in policy["spec"].get("egress", ())
        if 6443 in [port["port"] for port in rule.get("ports", ())]
    }
    assert reaching == {"gateway-to-outside"}


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ({"priorities": [1]}, "has no InferencePool: set inferencePool.enabled"),
        ({"enabled": True, "endpointPickerRef": {"name": "epp"}}, "needs the picker's Service, as {name: epp, port"),
    ],
)
def test_a_pool_that_would_not_work_is_rejected(pool: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(HelmError) as refused:
        render(tmp_path, {"engineDefaults": {"inferencePool": pool}})
    assert reason in str(refused.value)


def test_objectives_of_two_pools_would_have_the_same_names(tmp_path: Path) -> None:
    pool = {"inferencePool": {"enabled": True, "priorities": [1]}}
    with pytest.raises(HelmError, match=r"both have inferencePool\.priorities"):
        render(tmp_path, {"engines": [{"name": "a", **pool}, {"name": "b", **pool}]})
