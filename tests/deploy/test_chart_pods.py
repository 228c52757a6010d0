"""Where pods are scheduled, and which settings a Job copies from the service that it works for."""

from pathlib import Path
from typing import Any

import pytest

from tests.deploy import rendering
from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.rendering import chart, needs_helm

Object = dict[str, Any]
DEFAULTS: Object = {
    "nodeSelector": {"pool": "ml"},
    "tolerations": [{"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}],
    "priorityClassName": "production",
}
EVERYTHING: Object = {
    "podDefaults": DEFAULTS,
    "redis": {"mode": "sentinel"},
    "backup": {"url": "s3://bucket/copies"},
    "training": {"name": "triage"},
}
DOWNLOADED: Object = {"name": "local", "model": {"source": "hf://organisation/model"}}


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def render(tmp_path: Path, values: Object) -> Cluster:
    cluster = rendering.render(tmp_path, values)
    assert [found for each in cluster.workloads for v in VERSIONS for found in violations(each.object, v)] == []
    return cluster


def model_job(tmp_path: Path, **engine: Any) -> tuple[Cluster, Any]:
    cluster = render(tmp_path, {"engines": [{**DOWNLOADED, **engine}]})
    (job,) = (each for each in cluster.workloads if each.service == "model")
    return cluster, job


# -- where pods run


def test_all_pods_also_those_of_jobs_have_the_common_fields(tmp_path: Path) -> None:
    cluster = render(tmp_path, {**EVERYTHING, "engines": [DOWNLOADED]})
    kinds = {each.object["kind"] for each in cluster.workloads}
    assert kinds == {"CronJob", "Deployment", "Job", "Pod", "StatefulSet"}
    for each in cluster.workloads:
        assert DEFAULTS.items() <= {**each.pod, "tolerations": each.pod["tolerations"][:1]}.items(), each.where
    assert faults(cluster) == []


def test_a_services_own_fields_take_precedence_and_its_tolerations_are_added(tmp_path: Path) -> None:
    own = {"nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "engines"}
    gpus = {"name": "local", "kind": "cuda", "gpu": {"count": 1}, "model": {"source": "pvc:existing"}, "pod": own}
    pod = render(tmp_path, {"podDefaults": DEFAULTS, "engines": [gpus]}).workload("lora-server").pod
    assert pod["nodeSelector"] == {"pool": "ml", "zone": "a"}
    assert pod["priorityClassName"] == "engines"
    assert [toleration.get("key") for toleration in pod["tolerations"]] == ["team", None, "nvidia.com/gpu"]


def test_the_servers_of_sentinel_prefer_zones_of_their_own(tmp_path: Path) -> None:
    fields = {"priorityClassName": "redis", "tolerations": [{"operator": "Exists"}]}
    cluster = render(tmp_path, {"redis": {"mode": "sentinel", "pod": fields}})
    (spread,) = cluster.workload("valkey").pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert fields.items() <= cluster.workload("valkey-proxy").pod.items()
    assert "topologySpreadConstraints" not in Cluster.of(chart()).workload("valkey").pod


# -- what Jobs take over


def test_a_download_has_the_engines_proxy_authority_and_identity(tmp_path: Path) -> None:
    label = {"azure.workload.identity/use": "true"}
    ca, cache = {"name": "ca", "mountPath": "/etc/ca"}, {"name": "shared", "mountPath": "/shared"}
    volumes = [
        {"name": "ca", "secret": {"secretName": "ca"}},
        {"name": "shared", "persistentVolumeClaim": {"claimName": "a"}},
    ]
    env = {
        "HTTPS_PROXY": "http://proxy:3128",
        "VLLM_USE_V1": 1,
        "POINTSMAN_LORA_LOG_LEVEL": "DEBUG",
        "HF_HUB_OFFLINE": 1,
    }
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    container = {"volumeMounts": [ca, cache], "env": [token]}
    more = {"env": env, "podLabels": label, "pod": {"volumes": volumes}, "container": container}
    cluster, job = model_job(tmp_path, **more)
    (download,) = job.pod["containers"]
    settings = cluster.environment(job, download)
    assert settings.keys() == {"PYTHONPATH", "HOME", "HTTPS_PROXY"}
    assert download["env"][-1] == token
    assert label.items() <= job.labels.items()
    assert job.pod["volumes"][-1] == volumes[0]
    assert download["volumeMounts"][-1] == ca
    assert "shared" not in {volume["name"] for volume in job.pod["volumes"]}


def test_a_copy_of_the_state_takes_volumes_in_addition_to_its_own(tmp_path: Path) -> None:
    volume = {"name": "ca", "secret": {"secretName": "ca"}}
    values = {"backup": {"url": "s3://bucket/copies", "pod": {"volumes": [volume], "hostAliases": []}}}
    pod = render(tmp_path, values).workload("backup").pod
    assert [each["name"] for each in pod["volumes"]][-2:] == ["tmp", "ca"]


def test_training_has_no_sidecars_of_the_engine(tmp_path: Path) -> None:
    pod = {"containers": [{"name": "proxy", "image": "registry.example/proxy:1"}], "nodeSelector": {"pool": "gpus"}}
    cluster = render(tmp_path, {"training": {"name": "triage"}, "engineDefaults": {"pod": pod}})
    training = cluster.workload("training-triage-1").pod
    assert [each["name"] for each in training["containers"]] == ["training"]
    assert training["nodeSelector"] == pod["nodeSelector"]
