"""The Helm chart: its committed renderings, its schema, and faults that were once seen in a cluster."""

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_cli.app import build_app
from pointsman_cli.train.kubernetes_manifest import Registration, read_job, training_manifests
from pointsman_cli.train.options import TrainingJob
from pointsman_servicekit.keys.records import is_well_formed
from typer.testing import CliRunner

from deploy.helm.render import CHART, K8S, HelmError, helm, package, rendered_files
from tests.deploy.api_server import api_server
from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.random_values import random_values
from tests.deploy.rendering import chart, needs_helm, overlay, render, training

Object = dict[str, Any]
SEEDS = range(24)
GOOGLES = {"BackendConfig", "GCPBackendPolicy", "HealthCheckPolicy"}
LLM_D = {"InferencePool", "InferenceObjective"}
MONITORS = {"PodMonitor", "PrometheusRule"}
ROUTES = {"GRPCRoute", "HTTPRoute"}
OPERATORS = {*ROUTES, *GOOGLES, *LLM_D, *MONITORS, "Certificate", "LeaderWorkerSet", "ScaledObject"}
SERVICES = ("gateway", "retriever", "lora-server")
GROUPS = ("keys", "adapters")
POLICY_MAPS = ("pointsman-policy", "pointsman-policy-prompts", "pointsman-policy-tasks")
DOCS = (CHART.parents[2] / "docs" / "kubernetes.md").read_text()
FOLDERS = {"policy": "", "prompts": "-prompts", "tasks": "-tasks"}
BUCKET = {"adapters": {"store": {"url": "s3://bucket/adapters"}}}
CHOSEN = {"keys are off", "scales by what nobody measures", "names of the cluster only"}
"""Findings of the lint that the user has chosen by a value."""


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def env_of(cluster: Cluster, name: str) -> dict[str, str]:
    workload = cluster.workload(name)
    return cluster.environment(workload, workload.pod["containers"][0])


def data_of(cluster: Cluster, config_map: str) -> list[str]:
    found = cluster.get("ConfigMap", config_map)
    assert found
    return list(found["data"].values())


# -- what is committed, and what is accepted


def test_the_committed_manifests_are_the_charts_output() -> None:
    changed = [str(file.relative_to(K8S)) for file, text in rendered_files() if file.read_text() != text]
    assert changed == [], "make manifests"


def test_a_package_contains_linked_files_and_names_the_images_of_its_registry(tmp_path: Path) -> None:
    registry = "registry.example/team"
    package(registry, tmp_path)
    (file,) = tmp_path.glob("*.tgz")
    values = ("--set", "secrets.generate=false,monitoring.rules=true,monitoring.dashboards=true")
    packaged = helm("template", "pointsman", str(file), "--namespace", "pointsman", *values)
    assert packaged == chart(*values, "--set", f"images.registry={registry}")
    assert f" {registry}/pointsman-gateway:" in packaged
    with pytest.raises(HelmError, match="'' is no registry"):
        package("", tmp_path)


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_the_defaults_pass_all_rules_and_ask_for_storage_of_one_node() -> None:
    cluster = Cluster.of(chart())
    assert faults(cluster) == []
    templates = [t for set_ in cluster.all("StatefulSet") for t in set_["spec"].get("volumeClaimTemplates", [])]
    claims = [*cluster.all("PersistentVolumeClaim"), *templates]
    assert {mode for claim in claims for mode in claim["spec"]["accessModes"]} == {"ReadWriteOnce"}


def test_a_training_job_passes_all_rules() -> None:
    others = Cluster.of(overlay("gpu")).objects
    own = Cluster.of(training()).objects
    assert [o["metadata"]["name"] for o in own] == ["training-triage-1"]
    own[0]["metadata"]["namespace"] = "pointsman"
    assert faults(Cluster([*others, *own])) == []
    assert [violations(own[0], version) for version in VERSIONS] == [[], []]


def test_a_training_of_the_command_passes_all_rules(tmp_path: Path) -> None:
    data, file = tmp_path / "rows.jsonl", tmp_path / "job.yaml"
    data.write_text('{"text": "lost my bag", "output": "lost_item"}\n')
    file.write_text(training())
    options = {"rank": 8, "processes": 2}
    made = training_manifests(
        read_job(file), TrainingJob("triage", data, "lora", options=options), Registration("triage")
    )
    own = [made.job, made.config_map]
    for each in own:
        each["metadata"]["namespace"] = "pointsman"
    assert faults(Cluster([*Cluster.of(overlay("gpu")).objects, *own])) == []
    assert [violations(each, version) for each in own for version in VERSIONS] == [[], []] * 2


def test_a_training_on_several_gpus_has_a_process_for_each(tmp_path: Path) -> None:
    gpus = {"kind": "cuda", "gpu": {"count": 1}, "model": {"source": "pvc:existing"}}
    cluster = render(tmp_path, {"engineDefaults": gpus, "training": {"name": "triage", "gpus": 4}})
    (container,) = cluster.workload("training-triage-1").pod["containers"]
    assert "--processes=4" in container["args"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_a_training_on_several_gpus_needs_an_engine_with_gpus(tmp_path: Path) -> None:
    with pytest.raises(HelmError, match="the first engine has no GPU"):
        render(tmp_path, {"training": {"name": "triage", "gpus": 2}})


def test_with_a_bucket_training_and_lora_servers_share_the_given_claim(tmp_path: Path) -> None:
    store = {"url": "s3://bucket/adapters", "existingClaim": "training-data"}
    cluster = render(tmp_path, {"adapters": {"store": store}, "training": {"name": "triage"}})
    for name in ("training-triage-1", "lora-server"):
        volumes = {volume["name"]: volume for volume in cluster.workload(name).pod["volumes"]}
        assert volumes["adapters"]["persistentVolumeClaim"]["claimName"] == "training-data"
    assert not cluster.has("PersistentVolumeClaim", "adapters")


@pytest.mark.parametrize("seed", SEEDS)
def test_random_values_of_the_schema_give_manifests_that_pass_all_rules(seed: int, tmp_path: Path) -> None:
    values = random_values(seed)
    if refusal := _refusal(values):
        with pytest.raises(HelmError, match=refusal):
            render(tmp_path, values)
        return
    cluster = render(tmp_path, values)
    assert [fault for fault in faults(with_given_objects(cluster)) if fault.rule not in CHOSEN] == []
    ours = [object for object in cluster.objects if object["kind"] not in OPERATORS]
    assert [found for object in ours for version in VERSIONS for found in violations(object, version)] == []


def _refusal(values: Object) -> str:
    """Returns the chart's error for these values; empty if it accepts them."""
    refusals = []
    policies, service = values.get("networkPolicy", {}), values.get("gateway", {}).get("service", {})
    store, defaults = values.get("adapters", {}).get("store", {}), values.get("engineDefaults", {})
    shared = store.get("url") or store.get("existingClaim") or store.get("accessMode") == "ReadWriteMany"
    engines = [{**defaults, **engine} for engine in values.get("engines", [{"name": "local"}])]
    ranges = [{"min": 1, "max": 8, **defaults.get("keda", {}), **engine.get("keda", {})} for engine in engines]
    if any(keda.get("enabled") and keda["min"] > keda["max"] for keda in ranges):
        refusals.append("keda.min is more than keda.max")
    for engine in engines:
        gpu = {**defaults.get("gpu", {}), **engine.get("gpu", {})}
        if (engine.get("kind", "cpu") == "cuda") != (gpu.get("count", 0) > 0):
            refusals.append("has no GPU|would not use its GPUs")
    counts = [
        keda["max"] if keda.get("enabled") else engine.get("replicas", 1)
        for engine, keda in zip(engines, ranges, strict=True)
    ]
    if not shared and sum(counts) > 1:
        refusals.append("share the adapters")
    models = [{**defaults.get("model", {}), **engine.get("model", {})} for engine in engines]
    loaded = [
        (m.get("accessMode", "ReadWriteOnce"), n)
        for m, n in zip(models, counts, strict=True)
        if "://" in m.get("source", "")
    ]
    if any(mode == "ReadWriteOncePod" or (mode == "ReadWriteOnce" and n > 1) for mode, n in loaded):
        refusals.append("in a claim that its pods and a Job share")
    redis, tls, gateway = values.get("redis", {}), values.get("tls", {}), values.get("gateway", {})
    if redis.get("mode") == "external" and not redis.get("existingSecret"):
        refusals.append("set redis.existingSecret")
    if tls.get("mode") == "certManager" and not tls.get("issuerRef"):
        refusals.append("set tls.issuerRef.name")
    scaling = {"min": 2, "max": 10, **gateway.get("autoscaling", {})}
    if scaling.get("enabled") and scaling["min"] > scaling["max"]:
        refusals.append("autoscaling: min is more than max")
    if any(gateway.get(r, {}).get("enabled") and not gateway[r].get("parentRefs") for r in ("httpRoute", "grpcRoute")):
        refusals.append("set parentRefs to your Gateway")
    if gateway.get("ingress", {}).get("enabled") and not gateway["ingress"].get("hosts"):
        refusals.append("ingress: set hosts")
    backup = values.get("backup", {})
    if backup.get("restore") and not backup.get("url"):
        refusals.append("set backup.url, where the copies are")
    has_cidrs = policies.get("clients", {}).get("cidrs")
    if policies.get("enabled") and service.get("type", "ClusterIP") != "ClusterIP" and not has_cidrs:
        refusals.append("let no address outside in")
    return "|".join(refusals)


def with_given_objects(cluster: Cluster) -> Cluster:
    """Adds the user's ConfigMaps that the values name."""
    labels = {"app.kubernetes.io/part-of": "pointsman"}
    names = [name for name in POLICY_MAPS if not cluster.has("ConfigMap", name)]
    given = [{"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {}} for name in names]
    return Cluster([*cluster.objects, *given])


def test_the_retriever_reads_the_policy_that_names_another_embedding_model(tmp_path: Path) -> None:
    cluster = render(tmp_path, {"retriever": {"embeddingConfig": "models.yaml"}})
    assert env_of(cluster, "retriever")["POINTSMAN_RETRIEVER_EMBEDDING_CONFIG"] == "/etc/pointsman/config/models.yaml"
    pods = [cluster.workload(name).pod for name in ("gateway", "retriever")]
    mounts = [{m["name"]: m for m in pod["containers"][0]["volumeMounts"]}["policy"] for pod in pods]
    volumes = [{volume["name"]: volume for volume in pod["volumes"]}["policy"] for pod in pods]
    assert (mounts[0], volumes[0]) == (mounts[1], volumes[1])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replica": 2}}, "replica"),
        ({"gateway": {"auth": "yes"}}, "auth"),
        ({"engines": [{"model": {"source": "image"}}]}, "name"),
        ({"engines": [{"name": "local", "replicas": 2}]}, "set adapters.store.accessMode to ReadWriteMany"),
        ({"engines": [{"name": "local"}, {"name": "large"}]}, "up to 2 pods share the adapters"),
        (
            {**BUCKET, "engines": [{"name": "local", "replicas": 2, "model": {"source": "hf://a/b"}}]},
            "the model of 'local' is in a claim that its pods and a Job share",
        ),
        (
            {"networkPolicy": {"enabled": True}, "gateway": {"service": {"type": "LoadBalancer"}}},
            "let no address outside in",
        ),
        ({"backup": {"restore": "latest"}}, "set backup.url, where the copies are"),
        ({"backup": {"url": "/mnt/copies"}}, "url"),
        ({**BUCKET, "training": {"name": "triage"}}, "set adapters.store.existingClaim to one that has the data"),
        ({"policy": {"files": {"notes/a.txt": "a"}}}, "'notes/a.txt' is in the folder 'notes'"),
        ({"policy": {"files": {"tasks/a.jsonl": "x" * 1_100_000}}}, "a ConfigMap holds 1 MiB: split the file"),
    ],
    ids=lambda part: part[:30] if isinstance(part, str) else "",
)
def test_wrong_values_are_refused_with_the_reason(tmp_path: Path, values: Object, reason: str) -> None:
    with pytest.raises(HelmError, match=reason):
        render(tmp_path, values)


# -- faults that a cluster has shown


def test_upgrades_keep_secrets_and_the_autoscalers_number_of_replicas() -> None:
    kinds = {(o["apiVersion"], o["kind"]) for o in Cluster.of(chart()).objects}
    kinds.add(("autoscaling/v2", "HorizontalPodAutoscaler"))
    kept = {"password": _encoded("old"), "url": _encoded("redis://:old@valkey:6379/0")}
    owned = {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "pointsman", "meta.helm.sh/release-namespace": "pointsman"},
    }
    there: list[Object] = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pointsman-redis"}, "data": kept},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gateway"}, "spec": {"replicas": 5}},
    ]
    for object in there:
        object["metadata"] |= owned
    server = ("--dry-run=server", "--disable-openapi-validation", "--set", "gateway.autoscaling.enabled=true")
    with api_server(kinds, there) as url:
        cluster = Cluster.of(chart(*server, "--kube-apiserver", url))
    secrets = {secret["metadata"]["name"]: secret for secret in cluster.all("Secret")}
    assert secrets["pointsman-redis"]["data"] == kept
    assert len(base64.b64decode(secrets["pointsman-tokens"]["data"]["gateway"])) >= 32
    assert {secret["metadata"]["annotations"]["helm.sh/resource-policy"] for secret in secrets.values()} == {"keep"}
    assert cluster.get("Deployment", "gateway")["spec"]["replicas"] == 5  # type: ignore[index]  # it is there


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_generated_secrets_fit_together() -> None:
    secrets = {s["metadata"]["name"]: _decoded(s["data"]) for s in Cluster.of(chart()).all("Secret")}
    tokens = secrets["pointsman-tokens"]
    operator = f"operator admin {tokens['operator']}"
    assert tokens["lora-server"].splitlines() == [f"gateway write {tokens['gateway']}", operator]
    assert tokens["retriever"].splitlines() == [f"gateway read {tokens['gateway']}", operator]
    assert secrets["pointsman-redis"]["url"] == f"redis://:{secrets['pointsman-redis']['password']}@valkey:6379/0"
    assert is_well_formed(secrets["pointsman-first-key"]["key"])


def _decoded(data: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def test_the_order_of_values_does_not_matter() -> None:
    pairs = ["redis.mode=sentinel", "networkPolicy.enabled=true", "tls.mode=existing", "monitoring.podMonitors=true"]
    pairs.append("secrets.generate=false")
    forwards, backwards = (
        chart(*(word for pair in order for word in ("--set", pair))) for order in (pairs, pairs[::-1])
    )
    assert forwards == backwards
    assert faults(Cluster.of(forwards)) == []


def test_an_ipv6_cluster_gets_addresses_in_brackets(tmp_path: Path) -> None:
    cluster = render(tmp_path, {"ipv6": True, "redis": {"mode": "sentinel"}})
    assert env_of(cluster, "lora-server")["POINTSMAN_LORA_ENGINE_LISTEN"] == "[$(POD_IP)]:8101"
    listening = [v for name in SERVICES for key, v in env_of(cluster, name).items() if key.endswith("LISTEN")]
    assert {value.rpartition(":")[0] for value in listening} == {"[::]", "[$(POD_IP)]"}
    files = "\n".join(text for name in ("valkey-settings", "valkey-proxy-settings") for text in data_of(cluster, name))
    assert re.findall(r"^ *bind (.*)", files, re.MULTILINE) == ["[::]:6379", "[::]:8404"]  # Valkey's default is both
    ports = {port for workload in cluster.services for port in workload.ports.values()}
    assert ports == {6379, 26379, 8404, *(int(value.rpartition(":")[2]) for value in listening)}


def test_no_change_of_values_needs_what_the_api_server_refuses() -> None:
    """Fields that the API server does not let be changed are equal in all renderings of an object."""
    defaults = Cluster.of(chart())
    changes = ("redis.mode=sentinel", "adapters.store.accessMode=ReadWriteMany", "images.tag=v2", "tls.mode=existing")
    pairs = [(defaults, Cluster.of(chart("--set", change))) for change in (*changes, "networkPolicy.enabled=true")]
    for before, after in [*pairs, (Cluster.of(overlay("cpu")), Cluster.of(overlay("gpu")))]:
        fixed, then = _fixed(before), _fixed(after)
        assert fixed.keys() & then.keys()
        assert [name for name in fixed.keys() & then.keys() if fixed[name] != then[name]] == []


CHANGEABLE = {
    "StatefulSet": {"replicas", "template", "revisionHistoryLimit"},
    "Deployment": {"replicas", "template", "revisionHistoryLimit", "minReadySeconds", "strategy"},
    "Service": {"selector", "ports", "type", "publishNotReadyAddresses"},
    "Job": {"backoffLimit"},
    "PersistentVolumeClaim": set[str](),
}
"""Fields of specs that the API server lets be changed, by kind. The spec of other kinds can be changed as a whole."""


def _fixed(cluster: Cluster) -> dict[str, Object]:
    return {
        f"{kind}/{object['metadata']['name']}": {k: v for k, v in object["spec"].items() if k not in changeable}
        for kind, changeable in CHANGEABLE.items()
        for object in cluster.all(kind)
    }


def test_gpus_are_chosen_by_the_users_labels(tmp_path: Path) -> None:
    engine = {"kind": "cuda", "gpu": {"count": 2}, "model": {"source": "pvc:existing"}}
    engine |= {"name": "local", "pod": {"nodeSelector": {"pool": "gpu"}}}
    pod = render(tmp_path, {"engines": [engine]}).workload("lora-server").pod
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_a_model_of_one_node_is_downloaded_on_the_engines_node() -> None:
    gpu = "engines[0].kind=cuda,engines[0].gpu.count=1,engines[0].pod.nodeSelector.pool=gpu"
    model = f"engines[0].name=local,engines[0].model.source=hf://organisation/model,{gpu}"
    near, anywhere = (
        next(each.pod for each in Cluster.of(chart("--set", model + more)).workloads if each.service == "model")
        for more in ("", ",engines[0].model.accessMode=ReadWriteMany")
    )
    (term,) = near["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == {"matchLabels": {"pointsman/engine": "local"}}
    assert not anywhere.keys() & {"affinity", "nodeSelector", "tolerations"}  # no GPU waits for a download


def test_the_retriever_uses_a_gpu_with_the_image_for_it(tmp_path: Path) -> None:
    pod = render(tmp_path, {"retriever": {"gpu": {"count": 1}}}).workload("retriever").pod
    assert "/pointsman-retriever-gpu:" in f"/{pod['containers'][0]['image']}"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_storage_is_configurable(tmp_path: Path) -> None:
    store = {"accessMode": "ReadWriteMany", "storageClass": "files", "size": "7Gi"}
    cluster = render(tmp_path, {"storageClass": "fast", "adapters": {"store": store}})
    claim = cluster.get("PersistentVolumeClaim", "adapters-rwx")
    assert claim
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "files",
        "resources": {"requests": {"storage": "7Gi"}},
    }
    (data,) = cluster.workload("retriever").object["spec"]["volumeClaimTemplates"]
    assert data["spec"]["storageClassName"] == "fast"


def test_a_large_policy_file_has_a_config_map_of_its_own_in_the_same_folder(tmp_path: Path) -> None:
    large = json.dumps({"text": "x" * 300_000})
    files = {"pointsman.yaml": "models: {}", "tasks/chat.jsonl": "{}", "tasks/big_one.jsonl": large}
    cluster = render(tmp_path, {"policy": {"files": files}})
    maps = {m["metadata"]["name"]: set(m["data"]) for m in cluster.all("ConfigMap")}
    del maps["valkey-settings"]
    assert maps == {
        "pointsman-policy": {"pointsman.yaml"},
        "pointsman-policy-tasks": {"chat.jsonl"},
        "pointsman-policy-tasks-big-one-jsonl": {"big_one.jsonl"},
    }
    volumes = {v["name"]: v for v in cluster.workload("gateway").pod["volumes"]}
    sources = volumes["policy-tasks"]["projected"]["sources"]
    assert [source["configMap"]["name"] for source in sources] == sorted(maps)[1:]


@pytest.mark.parametrize(("url", "port"), [("http://milvus.example:19531", 19531), ("http://milvus.example", 19530)])
def test_network_policies_let_the_retriever_reach_milvus(tmp_path: Path, url: str, port: int) -> None:
    cluster = render(tmp_path, {"networkPolicy": {"enabled": True}, "retriever": {"milvus": {"url": url}}})
    policy = cluster.get("NetworkPolicy", "retriever-to-outside")
    assert policy
    assert {"ports": [{"protocol": "TCP", "port": port}]} in policy["spec"]["egress"]


def test_installations_that_share_a_milvus_have_prefixes_of_their_own() -> None:
    setting, milvus = (
        "POINTSMAN_RETRIEVER_VECTOR_STORE_PREFIX",
        "retriever.milvus.url=http://pointsman-milvus.milvus.svc",
    )
    prefixes = [
        env_of(Cluster.of(chart("--namespace", namespace, "--set", f"{milvus}{more}")), "retriever")[setting]
        for namespace, more in (("pointsman", ""), ("team-dev", ""), ("team-dev", ",retriever.milvus.prefix=ours"))
    ]
    assert prefixes == ["pointsman_pointsman", "pointsman_team_dev", "ours"]


def test_the_url_and_password_of_a_shared_store_come_from_a_secret(tmp_path: Path) -> None:
    shared = {"existingSecret": "postgres", "port": 6432}
    cluster = render(tmp_path, {"networkPolicy": {"enabled": True}, "retriever": {"sharedStore": shared}})
    container = cluster.workload("retriever").pod["containers"][0]
    env = {one["name"].removeprefix("POINTSMAN_RETRIEVER_SHARED_STORE"): one for one in container["env"]}
    assert env[""]["value"] == "pgvector"
    assert env["_PREFIX"]["value"].startswith("pointsman_")
    assert env["_URL"]["valueFrom"] == {"secretKeyRef": {"name": "postgres", "key": "url"}}
    assert env["_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "postgres", "key": "password"}}
    policy = cluster.get("NetworkPolicy", "retriever-to-outside")
    assert policy
    assert {"ports": [{"protocol": "TCP", "port": 6432}]} in policy["spec"]["egress"]


def test_ones_own_engines_need_no_lora_server(tmp_path: Path) -> None:
    values = {"engines": [], "retriever": {"enabled": False}, "policy": {"files": {"pointsman.yaml": "models: {}"}}}
    cluster = render(tmp_path, {**values, "networkPolicy": {"enabled": True}})
    assert faults(cluster) == []
    assert {workload.service for workload in cluster.services} == {"gateway", "valkey"}
    (job,) = cluster.all("Job")
    assert [container["name"] for container in job["spec"]["template"]["spec"]["containers"]] == ["first-key"]


def test_the_jobs_commands_exist() -> None:
    """Each command of the seeding Job and of `helm test` is accepted by the command line's parser."""
    cluster = Cluster.of(chart())
    commands = [c["command"][-1].splitlines() for c in cluster.workload(_only_job(cluster)).pod["containers"]]
    asked = cluster.workload("ask").pod["containers"][0]["command"]
    for words in [*(shlex.split(line) for lines in commands for line in lines), asked]:
        shown = CliRunner().invoke(build_app(), [*words[1:3], "--help"] if words[1] in GROUPS else [words[1], "--help"])
        assert shown.exit_code == 0, words
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if option not in shown.output] == []


def _only_job(cluster: Cluster) -> str:
    (job,) = cluster.all("Job")
    return str(job["metadata"]["name"])


def test_cert_manager_issues_what_the_services_mount(tmp_path: Path) -> None:
    cluster = render(tmp_path, {"tls": {"mode": "certManager", "issuerRef": {"name": "ca"}, "hosts": ["llm.example"]}})
    issued = {c["spec"]["secretName"]: c["spec"]["dnsNames"] for c in cluster.all("Certificate")}
    assert {name: names[0] for name, names in issued.items()} == {
        "gateway-tls": "gateway",
        "retriever-tls": "retriever",
        "lora-server-tls": "lora-server",
    }
    assert issued["gateway-tls"][-1] == "llm.example"
    assert faults(cluster) == []


# -- what the documentation says


def test_the_documented_values_of_a_production_pass_all_rules(tmp_path: Path) -> None:
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if block.startswith("images:"))
    values = yaml.safe_load(text)
    values["policy"]["configMaps"] = {name: [f"pointsman-policy{end}"] for name, end in FOLDERS.items()}
    cluster = with_given_objects(render(tmp_path, values))
    assert faults(cluster) == []
    assert {"Certificate", "ScaledObject", "PodMonitor", "PrometheusRule"} <= {o["kind"] for o in cluster.objects}


def test_kind_takes_four_commands_from_a_clone_to_an_answer_and_a_small_machine() -> None:
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL) if block.startswith("make kind"))
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) <= 4
    contexts = block.count(" kind-pointsman ")  # no command reaches another cluster
    assert contexts == len(re.findall(r"\b(?:helm|kubectl) --", block)) == 3
    install, forward, ask = commands[1:]
    assert install[3:6] == ["install", "pointsman", str(CHART.relative_to(CHART.parents[2]))]
    options = [word for word in install if word.startswith("--")]
    assert [option for option in options if option not in helm("install", "--help")] == []
    assert "--wait-for-jobs" in options
    assert "--retry-connrefused" in ask  # the port may not be forwarded yet
    cluster = Cluster.of(chart("--values", install[install.index("--values") + 1]))
    assert faults(cluster) == []
    (port,) = cluster.get("Service", "gateway")["spec"]["ports"]  # type: ignore[index]  # it is there
    assert forward[-3:] == ["service/gateway", f"8080:{port['port']}", "&"]
    assert any("get secret pointsman-first-key" in word for word in ask)
    assert cluster.get("Secret", "pointsman-first-key")
    long_lived = [c["resources"]["requests"]["cpu"] for workload in cluster.services for c in workload.containers]
    assert sum(int(cpu[:-1]) if cpu.endswith("m") else 1000 * int(cpu) for cpu in long_lived) <= 2000


def test_an_autoscaler_gets_the_replicas_by_another_field_manager() -> None:
    """A server-side apply ignores the annotation of the last client-side apply."""
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL) if "--field-manager" in block)
    command, given, _ = block.splitlines()
    assert "--server-side" in command
    handed = yaml.safe_load(re.sub(r"\$\(.*?\)", "3", given))
    deployment = Cluster.of(overlay("cpu")).get(handed["kind"], handed["metadata"].pop("name"))
    assert deployment
    assert handed["metadata"] == {"namespace": deployment["metadata"]["namespace"]}
    assert (handed["apiVersion"], handed["spec"]) == (deployment["apiVersion"], {"replicas": 3})
    assert "last-applied" not in DOCS


def test_manifests_are_applied_on_the_servers_side() -> None:
    """A client-side apply stores objects in an annotation of at most 256 KiB, and the example's policy has nearly as
    much.
    """
    pages = "".join(page.read_text() for page in (CHART.parents[2] / "docs").rglob("*.md"))
    applied = re.findall(r"kubectl apply[^`\n]*-k", pages)
    assert applied
    assert [command for command in applied if "--server-side" not in command] == []


# -- what users are told


def notes(*values: str) -> str:
    """Returns what Helm prints after an installation."""
    words = ("pointsman", str(CHART), "--namespace", "pointsman", "--dry-run=client", *values)
    return helm("install", *words).partition("\nNOTES:\n")[2]


def test_the_notes_name_the_workloads_that_are_there() -> None:
    printed = notes("-f", str(CHART / "ci" / "two-nodes.yaml"))
    cluster = Cluster.of(chart("-f", str(CHART / "ci" / "two-nodes.yaml")))
    named = re.findall(r"(deployment|statefulset|leaderworkerset)/(\S+)", printed)
    kinds = {"deployment": "Deployment", "statefulset": "StatefulSet", "leaderworkerset": "LeaderWorkerSet"}
    assert {kinds[kind] for kind, _ in named} == {"Deployment", "LeaderWorkerSet"}
    assert [name for kind, name in named if not cluster.has(kinds[kind], name)] == []


def test_without_a_key_nobody_is_asked_to_send_a_request_with_one() -> None:
    without = ("--set", "secrets.generate=false,networkPolicy.enabled=true")
    cluster = Cluster.of(chart(*without))
    assert not cluster.has("Pod", "ask")
    assert not cluster.has("NetworkPolicy", "gateway-from-ask")
    printed = notes(*without)
    assert "keys create" in printed
    assert "helm test" not in printed
    assert "helm test" in notes()
    assert Cluster.of(chart(*without, "--set", "gateway.auth=off")).has("Pod", "ask")


def test_the_notes_warn_if_nothing_collects_the_metrics_that_scale_engines() -> None:
    scaled = ("--set", "engineDefaults.keda.enabled=true,engineDefaults.keda.max=1")
    assert "set monitoring.podMonitors" in notes(*scaled)
    assert "set monitoring.podMonitors" not in notes(*scaled, "--set", "monitoring.podMonitors=true")
