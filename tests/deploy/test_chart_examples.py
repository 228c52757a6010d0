"""The examples of values in the chart's folder ci/: realistic installations, rendered and validated as a whole."""

from pathlib import Path

import pytest
import yaml
from fsspec.config import set_conf_env
from fsspec.registry import known_implementations
from pointsman_gateway.config.load import load_config
from pointsman_lora_server.settings import Settings as LoraSettings

from deploy.helm.render import CHART, K8S, HelmError
from deploy.supply.images import GATEWAY_LITELLM, IMAGES, locked
from tests.deploy import crd_schemas, leader_worker_set
from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.rendering import chart, needs_helm
from tests.deploy.test_chart import OPERATORS, with_given_objects

IMAGES_BY_NAME = {image.name: image for image in IMAGES}
USE_STORAGE = ("gateway", "lora-server")
"""The images that read or write object storage: copies, exports, models and adapters."""
EXAMPLES = sorted(file.stem for file in (CHART / "ci").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def example(name: str, namespace: str = "pointsman") -> Cluster:
    """Returns the example's objects, and the ConfigMaps that users create before."""
    return with_given_objects(Cluster.of(chart("-f", str(CHART / "ci" / f"{name}.yaml"), "-n", namespace)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_passes_all_rules_and_schemas(name: str) -> None:
    cluster = example(name)
    assert faults(cluster) == []
    ours = [each for each in cluster.objects if each["kind"] not in OPERATORS and "apiVersion" in each]
    assert [found for each in ours for version in VERSIONS for found in violations(each, version)] == []
    assert [found for each in cluster.all(*OPERATORS) for found in crd_schemas.violations_of_given(each)] == []


def test_objects_are_validated_by_the_definitions_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"type": "object", "properties": {"size": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"apiVersion": {}, "kind": {}, "spec": size}}
    versions = [{"name": "v1", "served": True, "schema": {"openAPIV3Schema": schema}}]
    spec = {"group": "example.org", "names": {"kind": "Group"}, "versions": versions}
    (tmp_path / "group.yaml").write_text(yaml.safe_dump({"spec": spec}))
    monkeypatch.setenv("CRD_DEFINITIONS", str(tmp_path))
    group = {"apiVersion": "example.org/v1", "kind": "Group", "spec": {"size": 2}}
    assert crd_schemas.violations_of_given(group) == []
    assert "'sizes' was unexpected" in crd_schemas.violations_of_given({**group, "spec": {"sizes": 2}})[0]
    assert crd_schemas.violations_of_given({**group, "apiVersion": "example.org/v2"}) == [
        "Group has the versions v1, not v2"
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_gateway_would_accept_the_configuration_that_an_example_brings(name: str, tmp_path: Path) -> None:
    cluster = Cluster.of(chart("-f", str(CHART / "ci" / f"{name}.yaml")))
    for map_ in cluster.all("ConfigMap"):
        folder = tmp_path / map_["metadata"]["name"].removeprefix("pointsman-policy").lstrip("-")
        if map_["metadata"]["name"].startswith("pointsman-policy"):
            folder.mkdir(exist_ok=True)
            for file, text in map_["data"].items():
                (folder / file).write_text(text)
    if any(tmp_path.iterdir()):  # otherwise it is in ConfigMaps of the user's
        workload = cluster.workload("gateway")
        assert load_config(tmp_path, cluster.environment(workload, workload.pod["containers"][0])).paths


def test_a_large_model_gets_all_gpus_and_their_network() -> None:
    workload = (cluster := example("eks-70b")).workload("lora-server")
    limits = workload.pod["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("8", "32")
    settings = cluster.environment(workload, workload.pod["containers"][0])
    assert settings["POINTSMAN_LORA_ENGINE_ARGS"] == "--tensor-parallel-size=8"
    assert settings["POINTSMAN_LORA_START_TIMEOUT"] == "5400"


def test_the_nodes_for_a_large_model_take_its_pod_and_its_class_exists() -> None:
    objects = {each["kind"]: each for each in yaml.safe_load_all((K8S / "nodes" / "eks-h100.yaml").read_text())}
    priority = objects["PriorityClass"]
    assert [violations(priority, version) for version in VERSIONS] == [[], []]
    pod = example("eks-70b").workload("lora-server").pod
    assert pod["priorityClassName"] == priority["metadata"]["name"]
    template = objects["NodePool"]["spec"]["template"]["spec"]
    offered = {each["key"]: each["values"] for each in template["requirements"]}
    assert all(value in offered[key] for key, value in pod["nodeSelector"].items())
    tolerated = {each["key"] for each in pod["tolerations"] if each["operator"] == "Exists"}
    assert {taint["key"] for taint in template["taints"]} <= tolerated
    assert template["nodeClassRef"]["name"] == objects["EC2NodeClass"]["metadata"]["name"]


@pytest.mark.parametrize(
    ("name", "agent"),
    [("eks-70b", {"169.254.170.23/32": 80, "fd00:ec2::23/128": 80}), ("gke", {"169.254.169.252/32": 988})],
)
def test_pods_reach_the_agent_that_gives_them_a_cloud_role(name: str, agent: dict[str, int]) -> None:
    policy = example(name).get("NetworkPolicy", "lora-server-to-outside")
    assert policy
    reached = {
        peer["ipBlock"]["cidr"]: rule["ports"][0]["port"]
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", ())
    }
    assert agent.items() <= reached.items()


def test_on_azure_all_that_reads_a_bucket_has_the_identity() -> None:
    cluster = example("aks")
    pods = [each for each in cluster.workloads if each.pod["serviceAccountName"] == "lora-server"]
    assert {each.service for each in pods} == {"lora-server", "model"}
    assert all(each.labels["azure.workload.identity/use"] == "true" for each in pods)
    account = cluster.get("ServiceAccount", "lora-server")
    assert account
    assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
    policy = cluster.get("NetworkPolicy", "lora-server-to-outside")
    assert policy
    assert 443 in [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    for each in pods:
        found: dict[str, dict[str, object]] = {}
        set_conf_env(found, cluster.environment(each, each.pod["containers"][0]))
        assert found == {"abfs": {"account_name": "account", "anon": False}}


def test_two_installations_in_two_namespaces_differ_only_by_their_namespace() -> None:
    one, two = (example("argo-cd", namespace) for namespace in ("team-a", "team-b"))
    assert yaml.safe_dump(one.objects).replace("team-a", "team-b") == yaml.safe_dump(two.objects)
    assert not one.all("Secret", "ClusterRole", "Namespace")  # what both would share, or what differs at each rendering


def test_a_retriever_reads_stores_of_the_users_with_their_keys_and_their_authority() -> None:
    workload = (cluster := example("stores")).workload("retriever")
    container = workload.pod["containers"][0]
    settings = cluster.environment(workload, container)
    assert container["envFrom"] == [{"secretRef": {"name": "store-keys"}}]
    secrets = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in workload.pod["volumes"]}
    folders = {mount["mountPath"]: secrets.get(mount["name"]) for mount in container["volumeMounts"]}
    authority = Path(settings["SSL_CERT_FILE"])
    assert folders[str(authority.parent)] == "company-ca"
    assert str(Path(settings["POINTSMAN_RETRIEVER_COLLECTIONS"]).parent) in folders
    extras = IMAGES_BY_NAME["retriever"].extras
    assert {"elasticsearch", "milvus", "opensearch", "pgvector", "qdrant"} <= {*extras}


@pytest.mark.parametrize("scheme", ["abfs", "az", "gs", "s3"])
def test_the_images_have_the_client_of_each_object_storage(scheme: str) -> None:
    package = known_implementations[scheme]["class"].partition(".")[0]
    assert all(package in {each.name for each in locked(IMAGES_BY_NAME[name].lock)} for name in USE_STORAGE)


def test_the_examples_for_clouds_use_the_images_as_they_are() -> None:
    for name in ("gke", "aks", "eks-70b"):
        engine = example(name).workload("lora-server").pod["containers"][0]
        assert engine["image"].partition(":")[0] == "pointsman-lora-server-cuda"


def test_a_gateway_may_have_the_image_with_the_sdk_of_litellm(tmp_path: Path) -> None:
    image = "registry.example/team/pointsman-gateway-litellm:0.1.0"
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"gateway": {"container": {"image": image}}}))
    cluster = Cluster.of(chart("-f", str(tmp_path / "values.yaml")))
    assert cluster.workload("gateway").pod["containers"][0]["image"] == image
    assert "litellm" in {each.name for each in locked(GATEWAY_LITELLM.lock)}


def test_a_lora_server_attaches_to_an_engine_that_something_else_runs() -> None:
    workload = (cluster := example("attached")).workload("lora-server")
    container = workload.pod["containers"][0]
    settings = cluster.environment(workload, container)
    url = settings["POINTSMAN_LORA_ENGINE_URL"]
    given = {name: value for name, value in settings.items() if name.startswith("POINTSMAN_LORA_ENGINE")}
    named = {name.removeprefix("POINTSMAN_LORA_").lower(): value for name, value in given.items()}
    assert LoraSettings.model_validate(named).is_attached
    assert "POINTSMAN_LORA_ENGINE_LISTEN" not in {entry["name"] for entry in container["env"]}
    assert not any("gpu" in name for name in container["resources"]["limits"])
    assert "engine" not in workload.ports
    assert not cluster.has("PodMonitor", "engine")
    for name in ("gateway", "lora-server"):
        policy = cluster.get("NetworkPolicy", f"{name}-to-outside")
        assert policy
        ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
        assert int(url.rpartition(":")[2]) in ports


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"replicas": 2}, "attaches to one engine, which has one lora-server"),
        ({"extraArgs": ["--enforce-eager"]}, "gpu.count and extraArgs are for engines that the chart starts"),
        ({"model": {"source": "image"}}, "set model.source to its model"),
    ],
)
def test_values_for_engines_that_the_chart_starts_are_refused_for_an_attached_one(
    values: dict[str, object], reason: str, tmp_path: Path
) -> None:
    given = yaml.safe_load((CHART / "ci" / "attached.yaml").read_text())
    given["engines"][0] |= values
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(HelmError, match=reason):
        chart("-f", str(tmp_path / "values.yaml"))


def test_an_engine_over_two_nodes_has_the_same_settings_on_both() -> None:
    cluster = example("two-nodes")
    (group,) = cluster.all("LeaderWorkerSet")
    assert leader_worker_set.violations(group) == []
    assert not cluster.all("StatefulSet", "ScaledObject") or not cluster.has("StatefulSet", "lora-server")
    leader, worker = (each for each in cluster.workloads if each.object["kind"] == "LeaderWorkerSet")
    first, other = leader.pod["containers"][0], worker.pod["containers"][0]
    assert (leader.service, worker.service) == ("lora-server", "engine-node")
    assert other["command"] == ["python", "-m", "pointsman_lora_server.engine_node"]
    settings, same = cluster.environment(leader, first), cluster.environment(worker, other)
    assert settings.items() - same.items() == {("POINTSMAN_LORA_TOKENS", "/etc/pointsman/tokens/lora-server")}
    assert same.items() <= settings.items()
    assert settings["POINTSMAN_LORA_ENGINE_ARGS"].split() == [
        *("--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2"),
        *("--node-rank=$(LWS_WORKER_INDEX)", "--master-addr=$(LWS_LEADER_ADDRESS)"),
    ]
    assert settings["POINTSMAN_LORA_HELD"] == "32"
    # Both read the model and the adapters; only the lora-server has secrets and ports.
    folders = [{m["mountPath"] for m in container["volumeMounts"]} for container in (first, other)]
    assert folders[0] - folders[1] == {"/etc/pointsman/tokens"}
    assert "ports" not in other
    assert not any("secret" in volume for volume in worker.pod["volumes"])
    assert other["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert [each.service for each in cluster.selected(cluster.get("Service", "lora-server")["spec"]["selector"])] == [  # type: ignore[index]  # it is there
        "lora-server"
    ]


@pytest.mark.parametrize(
    ("values", "store", "reason"),
    [
        ({"keda": {"enabled": True}}, {}, "several nodes, which cannot have keda.enabled"),
        ({"cache": {"size": "20Gi"}}, {}, "several nodes, which cannot have cache.size"),
        ({}, {"url": "s3://bucket/adapters"}, "use a claim with ReadWriteMany instead of adapters.store.url"),
        ({}, {"accessMode": "ReadWriteOnce"}, "up to 2 pods share the adapters"),
    ],
)
def test_an_engine_over_two_nodes_refuses_what_one_node_would_have_alone(
    values: dict[str, object], store: dict[str, str], reason: str, tmp_path: Path
) -> None:
    given = yaml.safe_load((CHART / "ci" / "two-nodes.yaml").read_text())
    given["engines"][0] |= values
    given["adapters"]["store"] |= store
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(HelmError, match=reason):
        chart("-f", str(tmp_path / "values.yaml"))
