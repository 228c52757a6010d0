"""Values that users add to pods, containers and autoscalers, and those for engines on GPUs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.rendering import chart, needs_helm, render

Object = dict[str, Any]
GPUS: Object = {"name": "large", "kind": "cuda", "gpu": {"count": 8}, "model": {"source": "pvc:existing"}}
VALUES = {
    "gateway": ("gateway",),
    "retriever": ("retriever",),
    "valkey": ("redis",),
    "lora-server": ("engineDefaults",),
}
"""By workload, the part of the values that has its `pod` and `container`."""


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def engine_of(tmp_path: Path, **more: Any) -> tuple[Object, dict[str, str]]:
    """Returns the pod of an engine with eight GPUs, and its environment variables with literal values."""
    cluster = render(tmp_path, {"engines": [{**GPUS, **more}]})
    workload = cluster.workload("lora-server-large")
    assert [violations(workload.object, version) for version in VERSIONS] == [[], []]
    return workload.pod, cluster.environment(workload, workload.pod["containers"][0])


# -- engines on GPUs


def test_an_engine_uses_all_its_gpus_and_the_models_own_context_window(tmp_path: Path) -> None:
    pod, settings = engine_of(tmp_path)
    assert settings["POINTSMAN_LORA_ENGINE_ARGS"] == "--tensor-parallel-size=8"
    assert settings["POINTSMAN_LORA_MAX_MODEL_LEN"] == "0"
    assert settings["POINTSMAN_LORA_START_TIMEOUT"] == "3600"
    shared = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shared["emptyDir"]["sizeLimit"] == "20Gi"


@pytest.mark.parametrize("given", ["--tensor-parallel-size=4", "--pipeline-parallel-size 8", "-dp 8", "-tp=8"])
def test_a_parallelism_of_the_user_replaces_the_derived_one(tmp_path: Path, given: str) -> None:
    _, settings = engine_of(tmp_path, extraArgs=["--enforce-eager", given])
    assert settings["POINTSMAN_LORA_ENGINE_ARGS"] == f"--enforce-eager {given}"


def test_arguments_with_json_reach_vllm_as_one_argument(tmp_path: Path) -> None:
    _, settings = engine_of(tmp_path, extraArgs=['--hf-overrides={"a": 1}'], gpu={"count": 1})
    assert settings["POINTSMAN_LORA_ENGINE_ARGS"] == "'--hf-overrides={\"a\": 1}'"


def test_parts_of_gpus_and_network_adapters_are_resources_by_their_names(tmp_path: Path) -> None:
    gpu = {"count": 1, "resource": "nvidia.com/mig-3g.40gb"}
    efa = {"vpc.amazonaws.com/efa": "32", "hugepages-2Mi": "5Gi"}
    pod, _ = engine_of(tmp_path, gpu=gpu, resources={"requests": efa, "limits": efa})
    limits = pod["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/mig-3g.40gb"], limits["vpc.amazonaws.com/efa"]) == ("1", "32")
    assert {toleration["key"] for toleration in pod["tolerations"]} == {"nvidia.com/mig-3g.40gb", "nvidia.com/gpu"}


def test_gpus_may_be_claimed_dynamically(tmp_path: Path) -> None:
    claims = [{"name": "gpus", "resourceClaimTemplateName": "eight-h100"}]
    more = {"resources": {"claims": [{"name": "gpus"}]}, "pod": {"resourceClaims": claims}}
    pod, _ = engine_of(tmp_path, gpu={"count": 0}, extraArgs=["--tensor-parallel-size=8"], **more)
    assert pod["resourceClaims"] == claims
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpus"}]


def test_compiled_kernels_may_outlive_the_pod(tmp_path: Path) -> None:
    cluster = render(tmp_path, {"engines": [{**GPUS, "cache": {"size": "20Gi", "storageClass": "fast"}}]})
    workload = cluster.workload("lora-server-large")
    (template,) = workload.object["spec"]["volumeClaimTemplates"]
    assert (template["metadata"]["name"], template["spec"]["storageClassName"]) == ("cache", "fast")
    assert "cache" not in {volume["name"] for volume in workload.pod["volumes"]}
    assert faults(cluster) == []


def test_an_engine_may_have_an_image_of_its_own_and_restart_only_on_demand(tmp_path: Path) -> None:
    image = "registry.example/pointsman-lora-server-cuda:0.1.0-vllm-0.33"
    cluster = render(tmp_path, {"engines": [{**GPUS, "image": image, "updateStrategy": {"type": "OnDelete"}}]})
    workload = cluster.workload("lora-server-large")
    assert workload.pod["containers"][0]["image"] == image
    assert workload.object["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_engines_and_gateways_may_pause(tmp_path: Path) -> None:
    cluster = render(tmp_path, {"gateway": {"replicas": 0}, "engines": [{**GPUS, "replicas": 0}]})
    counts = {
        workload.object["metadata"]["name"]: workload.object["spec"].get("replicas") for workload in cluster.workloads
    }
    assert (counts["gateway"], counts["lora-server-large"]) == (0, 0)


def test_keda_may_need_credentials_for_prometheus_and_have_more_triggers(tmp_path: Path) -> None:
    more = {
        "type": "cron",
        "metadata": {"timezone": "Etc/UTC", "start": "0 6 * * *", "end": "0 20 * * *", "desiredReplicas": "4"},
    }
    keda = {"authenticationRef": {"name": "prometheus"}, "metadata": {"authModes": "bearer"}, "triggers": [more]}
    engine = {**GPUS, "keda": {"enabled": True, "max": 1, **keda}}
    scaled = render(tmp_path, {"engines": [engine]}).get("ScaledObject", "lora-server-large")
    assert scaled
    *own, last = scaled["spec"]["triggers"]
    assert [trigger["name"] for trigger in own] == ["requests", "first-token"]
    assert last == more
    for trigger in own:
        assert trigger["authenticationRef"] == {"name": "prometheus"}
        assert trigger["metadata"]["authModes"] == "bearer"
        assert trigger["metadata"]["serverAddress"].startswith("http://prometheus-operated")


# -- what users add


@pytest.mark.parametrize("name", VALUES)
def test_additions_to_pods_and_containers_are_merged_into_the_charts(tmp_path: Path, name: str) -> None:
    given: Object = {
        "pod": {
            "securityContext": {"runAsUser": 5000},
            "topologySpreadConstraints": [],
            "volumes": [{"name": "ca", "secret": {"secretName": "my-redis"}}],
            "containers": [{"name": "proxy", "image": "registry.example/proxy:1"}],
        },
        "container": {
            "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
            "startupProbe": {"failureThreshold": 900},
        },
        "podAnnotations": {"vault.hashicorp.com/agent-inject": "true"},
        "podLabels": {"azure.workload.identity/use": "true"},
    }
    (part,) = VALUES[name]
    before, after = Cluster.of(chart()).workload(name), render(tmp_path, {part: given}).workload(name)
    assert [violations(after.object, version) for version in VERSIONS] == [[], []]
    assert after.pod["securityContext"] == {**before.pod["securityContext"], "runAsUser": 5000}
    assert after.pod["topologySpreadConstraints"] == []
    assert [c["name"] for c in after.pod["containers"]] == [name, "proxy"]
    own, charts = after.pod["containers"][0], before.pod["containers"][0]
    assert own["startupProbe"] == {**charts["startupProbe"], "failureThreshold": 900}
    assert own["volumeMounts"] == [*charts["volumeMounts"], *given["container"]["volumeMounts"]]
    volumes = before.pod.get("volumes", [])
    assert after.pod["volumes"] == [*volumes, *given["pod"]["volumes"]]
    assert after.template["metadata"]["annotations"].items() >= given["podAnnotations"].items()
    assert after.labels == {**before.labels, **given["podLabels"]}


def test_accounts_of_all_services_may_have_a_cloud_role(tmp_path: Path) -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/pointsman"}
    parts = {"gateway": {"serviceAccountAnnotations": role}, "retriever": {"serviceAccountAnnotations": role}}
    cluster = render(tmp_path, {**parts, "adapters": {"serviceAccountAnnotations": role}})
    accounts = {a["metadata"]["name"]: a["metadata"].get("annotations") for a in cluster.all("ServiceAccount")}
    assert (accounts["gateway"], accounts["retriever"], accounts["lora-server"]) == (role, role, role)
    assert accounts["valkey"] is None


def test_whole_numbers_stay_whole_numbers(tmp_path: Path) -> None:
    given = {"A": 1000000, "B": 10737418240, "C": 0.25, "D": "text", "E": True}
    cluster = render(tmp_path, {"gateway": {"env": given}})
    workload = cluster.workload("gateway")
    settings = cluster.environment(workload, workload.pod["containers"][0])
    assert [settings[name] for name in given] == ["1000000", "10737418240", "0.25", "text", "true"]


def test_gateways_may_be_replaced_all_at_once(tmp_path: Path) -> None:
    deployment = render(tmp_path, {"gateway": {"strategy": {"type": "Recreate"}}}).get("Deployment", "gateway")
    assert deployment
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}  # with rollingUpdate, the API server refuses it


# -- Secrets and routes of the user


def test_secrets_may_have_names_of_the_users(tmp_path: Path) -> None:
    names = {"gateway": "edge.tls", "retriever": "internal-tls", "lora-server": "internal-tls"}
    given = {
        "secrets": {"generate": False, "tokens": "team.tokens"},
        "gateway": {"firstKey": {"existingSecret": "team-key"}, "envFromSecrets": ["a.name.with.dots"]},
        "redis": {"existingSecret": "team-redis"},
        "tls": {"mode": "existing", "secrets": names},
        "backup": {"url": "s3://bucket/copies", "restore": "latest"},
    }
    cluster = render(tmp_path, given)
    assert not cluster.all("Secret")
    text = yaml.safe_dump(cluster.objects)
    assert not {name for name in ("pointsman-", "-tls") for line in text.splitlines() if f"secretName: {name}" in line}
    ask = cluster.workload("ask").pod["containers"][0]["env"]
    assert ask[0]["valueFrom"]["secretKeyRef"] == {"name": "team-key", "key": "key"}
    mounted = {volume["secret"]["secretName"] for each in cluster.workloads for volume in _secret_volumes(each.pod)}
    assert mounted == {"edge.tls", "internal-tls", "team.tokens", "team-key"}


def _secret_volumes(pod: Object) -> list[Object]:
    return [volume for volume in pod.get("volumes", []) if "secret" in volume]


def test_routes_of_the_gateway_api_lead_to_a_port_of_the_service(tmp_path: Path) -> None:
    route = {"enabled": True, "parentRefs": [{"name": "edge", "namespace": "infra"}], "hostnames": ["llm.example.com"]}
    cluster = render(tmp_path, {"gateway": {"httpRoute": route, "grpcRoute": route}, "tls": {"mode": "existing"}})
    routes = {kind: cluster.get(kind, "gateway") for kind in ("HTTPRoute", "GRPCRoute")}
    for found in routes.values():
        assert found
        (backend,) = found["spec"]["rules"][0]["backendRefs"]
        service = cluster.get("Service", backend["name"])
        assert service
        assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]


def test_alerts_link_to_the_runbook_where_it_is_published(tmp_path: Path) -> None:
    address = "https://git.example/pointsman/docs/alerts"
    cluster = render(tmp_path, {"monitoring": {"rules": True, "runbookUrl": f"{address}/"}})
    (rules,) = cluster.all("PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    assert all(rule["annotations"]["runbook_url"] == f"{address}/{rule['alert']}.md" for rule in alerts)
