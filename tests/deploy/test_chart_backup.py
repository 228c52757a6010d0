"""The chart's CronJob that copies all state, and the Job that restores it. tests/restore runs their commands."""

import json

import pytest

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.manifest_lint.cluster import Workload
from tests.deploy.rendering import chart

URL = "backup.url=s3://bucket/pointsman,backup.secret=backup-bucket"
ALL = ["redis", "collections", "adapters"]


def names(workload: Workload) -> list[str]:
    return [container["name"] for container in workload.containers]


@pytest.mark.parametrize(
    ("more", "copied"),
    [
        ("", ALL),
        (",redis.mode=sentinel", ALL),
        (",redis.mode=external,redis.existingSecret=my-redis", ["collections", "adapters"]),
        (",retriever.enabled=false", ["redis", "adapters"]),
        (",adapters.store.url=s3://bucket/adapters", ["redis", "collections"]),
    ],
)
def test_what_has_no_copy_of_its_own_is_copied_and_restored(more: str, copied: list[str]) -> None:
    given = ("--set", f"{URL},backup.restore=latest,networkPolicy.enabled=true,tls.mode=existing{more}")
    cluster = Cluster.of(chart(*given))
    backup, restore = cluster.workload("backup"), cluster.workload("restore-latest")
    assert names(backup) == [*copied, "upload"]
    assert set(names(restore)) == {"download", "collections", *copied} - {"redis"}
    assert faults(cluster) == []
    assert [violations(each.object, version) for each in (backup, restore) for version in VERSIONS] == [[]] * 4


def test_only_the_containers_that_reach_the_bucket_get_its_keys() -> None:
    cluster = Cluster.of(chart("--set", f"{URL},backup.restore=latest"))
    holders = [
        container["name"]
        for each in (cluster.workload("backup"), cluster.workload("restore-latest"))
        for container in each.containers
        if "envFrom" in container
    ]
    assert holders == ["upload", "download"]


def test_adapters_on_one_node_are_copied_there_even_if_it_has_gpus() -> None:
    gpu = ",engines[0].name=local,engines[0].kind=cuda,engines[0].gpu.count=1,engines[0].model.source=pvc:a"
    pod = Cluster.of(chart("--set", URL + gpu)).workload("backup").pod
    (near,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert near["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": "lora-server"}
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]
    anywhere = Cluster.of(chart("--set", f"{URL}{gpu},adapters.store.accessMode=ReadWriteMany")).workload("backup").pod
    assert "affinity" not in anywhere


def test_a_bucket_in_the_cluster_can_be_reached_through_the_network_policies() -> None:
    rule = {"to": [{"namespaceSelector": {}}], "ports": [{"port": 9000}]}
    more = (
        "--set",
        f"{URL},networkPolicy.enabled=true",
        "--set-json",
        f"networkPolicy.egress.more.backup={json.dumps([rule])}",
    )
    policy = Cluster.of(chart(*more)).get("NetworkPolicy", "backup-to-outside")
    assert policy
    assert rule in policy["spec"]["egress"]


def test_nothing_is_copied_by_default() -> None:
    assert not Cluster.of(chart()).all("CronJob")
