"""The chart's `export`: a sidecar of each gateway that Kubernetes stops after it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes_schemas import VERSIONS, violations
from tests.deploy.manifest_lint import Cluster, faults
from tests.deploy.rendering import chart, needs_helm


@pytest.fixture(autouse=True)
def _helm() -> None:
    needs_helm()


def gateway_pod(tmp_path: Path, **export: Any) -> dict[str, Any]:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"export": export}))
    cluster = Cluster.of(chart("-f", str(tmp_path / "values.yaml")))
    assert faults(cluster) == []
    (gateway,) = (each for each in cluster.workloads if each.service == "gateway")
    assert [found for version in VERSIONS for found in violations(gateway.object, version)] == []
    return gateway.pod


def settings(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def wal(pod: dict[str, Any]) -> Any:
    return next(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "wal")


def test_without_a_target_nothing_is_exported(tmp_path: Path) -> None:
    pod = gateway_pod(tmp_path)
    assert "initContainers" not in pod
    assert "POINTSMAN_GATEWAY_EXPORT_MAX_BYTES" not in settings(pod["containers"][0])
    assert wal(pod) == "256Mi"


@pytest.mark.parametrize(
    "target", ["otlp+http://collector.observability.svc:4318", "gs://a, otlp+https://b/c,s3://d/e"]
)
def test_collectors_and_several_targets_are_taken(tmp_path: Path, target: str) -> None:
    (exporter,) = gateway_pod(tmp_path, target=target)["initContainers"]
    assert settings(exporter)["POINTSMAN_EXPORT_TARGET"] == target


def test_the_exporter_is_a_sidecar_on_the_gateways_disk(tmp_path: Path) -> None:
    pod = gateway_pod(
        tmp_path,
        target="s3://records/all",
        maxMegabytes=100,
        env={"AWS_REGION": "eu"},
        envFromSecrets=["backup-bucket"],
    )
    gateway, (exporter,) = pod["containers"][0], pod["initContainers"]
    assert exporter["restartPolicy"] == "Always"
    assert exporter["envFrom"] == [{"secretRef": {"name": "backup-bucket"}}]
    folder = settings(gateway)["POINTSMAN_GATEWAY_WAL_DIR"]
    assert settings(exporter) == {
        "POINTSMAN_EXPORT_TARGET": "s3://records/all", "POINTSMAN_EXPORT_WAL_DIR": folder, "AWS_REGION": "eu",
        "POINTSMAN_EXPORT_SECONDS": "60", "POINTSMAN_EXPORT_LOG_FORMAT": "json",
    }  # fmt: skip
    assert {"name": "wal", "mountPath": folder} in exporter["volumeMounts"]
    assert settings(gateway)["POINTSMAN_GATEWAY_EXPORT_MAX_BYTES"] == str(100 * 1024**2)
    assert wal(pod) == "356Mi"


@pytest.mark.parametrize(
    ("target", "ports"),
    [
        ("otlp+http://collector.observability.svc:4318", [4318]),
        ("s3://a/b, otlp+https://one/path:1,otlp+http://two,otlp+http://three:4318/v1/logs", [443, 80, 4318]),
        ("s3://a/b", []),
    ],
)
def test_network_policies_let_the_exporter_reach_collectors(tmp_path: Path, target: str, ports: list[int]) -> None:
    values = {"networkPolicy": {"enabled": True}, "export": {"target": target}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    policy = Cluster.of(chart("-f", str(tmp_path / "values.yaml"))).get("NetworkPolicy", "gateway-to-outside")
    assert policy
    anywhere = [rule["ports"] for rule in policy["spec"]["egress"] if "to" not in rule]
    assert anywhere == [[{"protocol": "TCP", "port": port}] for port in ports]
